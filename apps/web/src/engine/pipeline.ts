/**
 * From a prompt and a seed to a picture, as edgesafe/sampling.py has it.
 *
 *     e = e_empty + g (e_text - e_empty),   z_(t-1) = scheduler(e, t, z_t)          (Ho and Salimans 2022)
 *
 * C, h, w of the latents; S text tokens of width D.
 */

import { randn } from "./random";
import { SAMPLERS, type SchedulerConfig } from "./schedulers";
import { joined, type Net, type Values } from "./session";
import type { Tokenizer } from "./tokenizer";
import type { UNet } from "./unet";
import { EngineError, type Pixels, type Request, type Settings } from "./types";

export interface Parts {
  tokenizer: Tokenizer;
  textEncoder: Net;
  unet: UNet;
  vaeDecoder: Net;
  scheduler: SchedulerConfig;
  latentShape: [number, number, number]; // C, h, w
  upscale: number; // pixels a latent
  scaling: number; // of the latents to unit variance
}

export interface Denoised {
  step: number; // 1 ... steps
  steps: number; // calls of the UNet, which pndm has one more of
  latents: Float32Array;
  clean: Float32Array; // the picture's latents as seen from here
}

const KEPT = 16; // prompts whose states are kept

export class Pipeline {
  private readonly states = new Map<string, Float32Array>(); // prompt -> (S, D)

  constructor(readonly parts: Parts) {}

  /** The text encoder's last hidden state (S, D), computed once a prompt. */
  async conditions(prompt: string): Promise<Float32Array> {
    const found = this.states.get(prompt) ?? (await this.encode(prompt));
    this.states.delete(prompt);
    this.states.set(prompt, found);
    if (this.states.size > KEPT) this.states.delete(this.states.keys().next().value!);
    return found;
  }

  encode(prompt: string): Promise<Float32Array> {
    const ids = Float32Array.from(this.parts.tokenizer.ids(prompt)); // fp32 holds every whole number below 2^24
    return this.parts.textEncoder.run({ input_ids: { data: ids, dims: [1, ids.length] } }, "last_hidden_state");
  }

  /** Yields after each call of the UNet. */
  async *denoise(request: Request): AsyncGenerator<Denoised> {
    check(request, this.parts.latentShape);
    const { guidance, prompt, sampler, seed } = request;
    const scheduler = SAMPLERS[sampler](this.parts.scheduler, request.steps);
    const text = await this.conditions(prompt);
    const given = this.given(guidance === 1 ? [text] : [text, await this.conditions("")]);
    let latents = request.latents ?? randn(seed, count(this.parts.latentShape));
    const steps = scheduler.timesteps.length;
    for (const [i, t] of scheduler.timesteps.entries()) {
      const made = await this.predict(latents, t, given);
      const step = scheduler.step(guided(made, guidance), i, latents);
      latents = step.latents;
      yield { step: i + 1, steps, latents, clean: step.clean };
    }
  }

  /** Rows of text conditions as the UNet reads them. */
  given(rows: Float32Array[]): Values {
    const tokens = this.parts.tokenizer.length;
    return { data: joined(rows), dims: [rows.length, tokens, rows[0]!.length / tokens] };
  }

  /** One call of the UNet, on the same latents for each row of conditions. */
  async predict(latents: Float32Array, timestep: number, given: Values): Promise<Float32Array> {
    const sample = { data: latents, dims: [1, ...this.parts.latentShape] };
    return this.parts.unet(sample, { data: Float32Array.of(timestep), dims: [] }, given);
  }

  async decode(latents: Float32Array): Promise<Pixels> {
    const { latentShape, scaling, upscale, vaeDecoder } = this.parts;
    const sample = { data: latents.map((value) => value / scaling), dims: [1, ...latentShape] };
    const made = await vaeDecoder.run({ latent_sample: sample }, "sample");
    return developed(made, latentShape[2] * upscale, latentShape[1] * upscale);
  }
}

export function count(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** Raises: EngineError "request", which names the setting. */
export function checkSettings({ guidance, sampler, steps }: Settings): void {
  const refuse = (message: string) => new EngineError("request", message);
  if (!Object.hasOwn(SAMPLERS, sampler)) throw refuse(`Sampler ${JSON.stringify(sampler)} is not known; known: ${Object.keys(SAMPLERS).join(", ")}`);
  if (!Number.isInteger(steps) || steps < 1 || steps > 1000) throw refuse(`${steps} steps: give a whole number from 1 to 1000`);
  if (!Number.isFinite(guidance) || guidance < 0) throw refuse(`Guidance ${guidance}: give a number from 0 on`);
}

function check(request: Request, shape: readonly number[]): void {
  checkSettings(request);
  if (typeof request.prompt !== "string") throw new EngineError("request", "The prompt is not a text");
  if (!Number.isSafeInteger(request.seed) || request.seed < 0) throw new EngineError("request", `Seed ${request.seed}: give a whole number from 0 on`);
  const given = request.latents?.length;
  if (given !== undefined && given !== count(shape)) throw new EngineError("request", `${given} latents, but this model has ${count(shape)}`);
}

function guided(made: Float32Array, guidance: number): Float32Array {
  if (guidance === 1) return made;
  const half = made.length / 2;
  const plain = made.subarray(half);
  return made.slice(0, half).map((asked, i) => plain[i]! + guidance * (asked - plain[i]!));
}

/** (3, H, W) of about -1 to 1 -> RGBA. */
function developed(made: Float32Array, width: number, height: number): Pixels {
  const [area, rgba] = [width * height, new Uint8ClampedArray(4 * width * height)]; // clamps, and rounds halves to even as torch does
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) rgba[4 * i + c] = (made[c * area + i]! / 2 + 0.5) * 255;
    rgba[4 * i + 3] = 255;
  }
  return { rgba, width, height };
}
