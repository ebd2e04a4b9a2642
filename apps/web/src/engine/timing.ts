/** How long a part takes: the protocol of benchmarks/latency.py, so that one report compares both. */

import type { Timing } from "./messages";
import { checkSettings, count, type Pipeline } from "./pipeline";
import { randn } from "./random";
import { SAMPLERS } from "./schedulers";
import { EngineError } from "./types";

const PROMPT = "red apple";
const SEED = 0;
const AT_LEAST = 3; // timed runs, even past the limit

/** Milliseconds of each timed run. `heed` is called between runs and may throw. */
export async function timed(pipeline: Pipeline, timing: Timing, heed: () => Promise<void>, note: (runs: number) => void): Promise<number[]> {
  checkSettings(timing.settings);
  const { limitMs, runs, warmUp } = timing;
  const whole = Number.isInteger(runs) && Number.isInteger(warmUp) && runs >= 1 && warmUp >= 0;
  if (!whole || !(limitMs >= 0)) throw new EngineError("request", `${runs} runs, ${warmUp} to warm up, ${limitMs} ms: give whole numbers from 0 on`);
  const run = await runner(pipeline, timing);
  let begun = performance.now();
  for (let i = 0; i < warmUp && (i === 0 || performance.now() - begun < limitMs); i++) {
    await run();
    await heed();
  }
  const samples: number[] = [];
  begun = performance.now();
  while (samples.length < runs && (samples.length < AT_LEAST || performance.now() - begun < limitMs)) {
    const start = performance.now();
    await run();
    samples.push(performance.now() - start);
    note(samples.length);
    await heed();
  }
  return samples;
}

async function runner(pipeline: Pipeline, { part, settings }: Timing): Promise<() => Promise<unknown>> {
  const { latentShape, scheduler } = pipeline.parts;
  const latents = randn(SEED, count(latentShape));
  switch (part) {
    case "text_encoder":
      return () => pipeline.encode(PROMPT);
    case "vae_decoder":
      return () => pipeline.decode(latents);
    case "unet_call": {
      const text = await pipeline.conditions(PROMPT);
      const given = pipeline.given(settings.guidance === 1 ? [text] : [text, text]);
      const [t] = SAMPLERS[settings.sampler](scheduler, settings.steps).timesteps;
      return () => pipeline.predict(latents, t!, given);
    }
    case "picture":
      return async () => {
        let last = latents;
        for await (const step of pipeline.denoise({ ...settings, prompt: PROMPT, seed: SEED })) last = step.latents;
        return pipeline.decode(last);
      };
    default:
      throw new EngineError("request", `Part ${JSON.stringify(part)} is not known; known: picture, unet_call, text_encoder, vae_decoder`);
  }
}
