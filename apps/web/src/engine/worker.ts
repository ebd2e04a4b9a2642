/** The worker's side: holds the model, answers one question at a time, and hears "stop" between two calls of the UNet. */

import type { Answers, Ask, Kind, Notes, Question, Reply } from "./messages";
import { open } from "./open";
import type { Pipeline } from "./pipeline";
import { named } from "./session";
import { timed } from "./timing";
import { EngineError, type Picture, type Request, type Step } from "./types";

const post = (reply: Reply, transfer: Transferable[] = []) => (self as unknown as Worker).postMessage(reply, transfer);
const tick = new MessageChannel();

let pipeline: Pipeline | null = null;
let busy = false;
let isStopped = false;

self.onmessage = async ({ data }: MessageEvent<Question>) => {
  const { id } = data;
  try {
    const value = await answer(data, (note) => post({ id, kind: "note", value: note }, pixelsOf(note)));
    post({ id, kind: "answer", value }, pixelsOf(value));
  } catch (error) {
    const { fault, message } = named(error, "The picture cannot be drawn");
    post({ id, kind: "fault", fault, message });
  }
};

async function answer(ask: Ask, note: (value: Notes[Kind]) => void): Promise<Answers[Kind]> {
  if (ask.kind === "ping") return null;
  if (ask.kind === "stop") {
    isStopped = busy;
    return null;
  }
  if (busy) throw new EngineError("request", "Another picture is being drawn. Wait for it, or stop it");
  busy = true;
  isStopped = false;
  try {
    if (ask.kind === "load") {
      const opened = await open(ask.options, note);
      pipeline = opened.pipeline;
      return opened.info;
    }
    if (!pipeline) throw new EngineError("request", "No model is loaded");
    return ask.kind === "generate" ? await draw(pipeline, ask.request, note) : await timed(pipeline, ask.timing, heed, note);
  } finally {
    busy = false;
  }
}

async function draw(pipeline: Pipeline, request: Request, note: (step: Step) => void): Promise<Picture> {
  const begun = performance.now();
  let latents: Float32Array | null = null;
  let [decodeMs, shown] = [0, begun]; // a preview's cost; when the last one was shown
  for await (const { step, steps, ...made } of pipeline.denoise(request)) {
    latents = made.latents;
    const now = performance.now();
    // previews take at most half of the time: a decoder that is slower than the UNet shows fewer of them
    if (request.preview && step < steps && now - shown >= decodeMs) {
      note({ step, steps, preview: await pipeline.decode(made.clean) });
      shown = performance.now();
      decodeMs = shown - now;
    } else {
      note({ step, steps });
    }
    await heed();
  }
  return { ...(await pipeline.decode(latents!)), milliseconds: performance.now() - begun };
}

/** Let the messages in that wait, then end if one was "stop". */
async function heed(): Promise<void> {
  await new Promise<void>((resolve) => {
    tick.port1.onmessage = () => resolve();
    tick.port2.postMessage(null);
  });
  if (isStopped) throw new EngineError("stopped", "Stopped");
}

/** Pictures are handed over, not copied. */
function pixelsOf(value: unknown): Transferable[] {
  const { rgba, preview } = (value ?? {}) as { rgba?: Uint8ClampedArray; preview?: { rgba: Uint8ClampedArray } };
  return [rgba, preview?.rgba].flatMap((pixels) => (pixels ? [pixels.buffer] : []));
}
