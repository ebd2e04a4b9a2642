/** The measurement, step by step: download, cold start, parts, pictures. What the server has already is left out. */

import { EngineError, Model, type LoadProgress, type Part, type Pixels } from "../engine/client";
import type { Awake } from "./awake";
import { device, held } from "./device";
import { png } from "./png";
import type { Left, Phase, Server, Work } from "./server";

export interface View {
  step(phase: Phase, share: number | null, detail?: string): void; // what goes on now, and how much of it is done
  figure(phase: Phase, ms: number): void; // of a step that is done
  progress(left: number): void; // measurements that are left
  picture(pixels: Pixels): void;
  stuck(isStuck: boolean): void; // nothing moves while the model is loaded
}

type Note = (p: LoadProgress) => void;

const BASE = "model/";
const LOADING = { download: "", check: "checking the files", compile: "getting the model ready" };
const BLOCK = 5; // UNet calls of a turn

/** Loads the model as the server wants it; download_ms is the time that went into fetching. */
async function load(work: Work, note: Note, stuck: View["stuck"]): Promise<{ model: Model; ms: number; fetchedMs: number; bytes: number }> {
  const begun = performance.now();
  let [fetching, since, fetchedMs, bytes] = [false, begun, 0, 0];
  const options = { base: BASE, ...(work.backend ? { device: work.backend } : {}), ...(work.threads ? { threads: work.threads } : {}) };
  const hear: Note = (p) => {
    const now = performance.now();
    if (fetching) fetchedMs += now - since;
    fetching = p.phase === "download";
    since = now;
    if (fetching) bytes = Math.max(bytes, p.loaded);
    note(p);
  };
  const model = await Model.load(options, hear, undefined, stuck);
  return { model, ms: performance.now() - begun, fetchedMs, bytes };
}

export async function measure(work: Work, server: Server, awake: Awake, view: View): Promise<void> {
  const note: Note = (p) => {
    const share = p.total ? p.loaded / p.total : null;
    view.step(p.phase, share, p.phase === "download" ? `${megabytes(p.loaded)} of ${megabytes(p.total)}` : LOADING[p.phase]);
    server.progress(p.phase, share);
  };
  view.step("download", null);
  const first = await load(work, note, view.stuck);
  let model = first.model;
  try {
    const left = await server.hello(await device(model.info));
    if (work.turns) return await turns(work, server, model, view);
    view.progress(count(left));
    if (left.cold) {
      model.close();
      view.step("cold start", null);
      server.progress("cold start", null);
      const made = await awake.inSight(() => cold(work, note, view.stuck));
      model = made.model;
      view.figure("cold start", made.load_ms + made.first_picture_ms);
      view.picture(made.pixels);
      view.step("cold start", null, "asking how much memory it takes");
      const download = { download_ms: first.bytes ? first.fetchedMs : null, download_bytes: first.bytes || null };
      const { load_ms, first_picture_ms } = made;
      view.progress((await server.cold({ load_ms, first_picture_ms, ...download, held_mib: await held() })).left);
    }
    for (const part of left.parts) {
      try {
        await timePart(work, server, awake, model, part, view);
      } catch (error) {
        if (!(error instanceof EngineError)) throw error;
        view.progress((await server.latency(part, { reason: error.message.slice(0, 500) || error.fault })).left);
        model.close(); // it may be broken now
        model = (await load(work, note, view.stuck)).model;
      }
    }
    await draw(work, server, model, left, view);
  } finally {
    model.close();
  }
}

/** From starting the worker to the first picture, the files being there: a download that comes between is not counted. */
async function cold(work: Work, note: Note, stuck: View["stuck"]): Promise<{ model: Model; pixels: Pixels; load_ms: number; first_picture_ms: number }> {
  const { model, ms, fetchedMs } = await load(work, note, stuck);
  const begun = performance.now();
  const pixels = await model.generate({ ...work.settings, ...work.cold });
  return { model, pixels, load_ms: ms - fetchedMs, first_picture_ms: performance.now() - begun };
}

async function timePart(work: Work, server: Server, awake: Awake, model: Model, part: Part, view: View): Promise<void> {
  const { runs, warm_up, limit_ms } = work.parts.find((given) => given.part === part)!;
  const tell = (done: number) => {
    view.step(part, done / runs, `run ${Math.min(done + 1, runs)} of ${runs}`);
    server.progress(part, Math.min(1, done / runs));
  };
  tell(0);
  const { samples, warmedMs } = await awake.inSight(async () => {
    const begun = performance.now();
    let ended = begun; // of the first timed run
    const made = await model.time(part, work.settings, runs, warm_up, limit_ms, (done) => {
      if (done === 1) ended = performance.now();
      tell(done);
    });
    return { samples: made, warmedMs: ended - begun - made[0]! };
  });
  const typical = median(samples);
  const warmed = warmedMs < limit_ms ? warm_up : Math.min(warm_up, Math.max(1, Math.round(warmedMs / typical))); // a slow device's ends early
  view.figure(part, typical);
  view.progress((await server.latency(part, { warm_up: warmed, samples_ms: samples })).left);
}

async function draw(work: Work, server: Server, model: Model, left: Left, view: View): Promise<void> {
  const all = work.pictures;
  let missing = left.pictures.length;
  const begun = performance.now();
  for (const { id, prompt, seed } of left.pictures) {
    const drawn = left.pictures.length - missing;
    const remaining = drawn ? ((performance.now() - begun) / drawn) * missing : null;
    view.step("pictures", (all - missing) / all, `${all - missing} of ${all}` + (remaining === null ? "" : `, ${minutes(remaining)} left`));
    server.progress("pictures", (all - missing) / all);
    const made = await model.generate({ ...work.settings, prompt, seed });
    const { left: rest } = await server.picture(id, png(made.rgba, made.width, made.height));
    missing--;
    view.picture(made);
    view.progress(rest);
  }
}

/** Blocks of UNet calls; the computer measures its own before it answers, so that both are timed under the same load. */
async function turns(work: Work, server: Server, model: Model, view: View): Promise<void> {
  const limit = work.parts.find((given) => given.part === "unet_call")!.limit_ms;
  for (let n = 0; n <= work.turns; n++) {
    view.step("unet_call", n / work.turns, `turn ${n} of ${work.turns}`);
    const samples = await model.time("unet_call", work.settings, BLOCK, n ? 1 : BLOCK, limit);
    await server.turn(n, { warm_up: n ? 1 : BLOCK, samples_ms: samples });
  }
}

export function count(left: Left): number {
  return Number(left.cold) + left.parts.length + left.pictures.length;
}

export function median(values: number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length / 2;
  return sorted.length % 2 ? sorted[Math.floor(half)]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

export function megabytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}

function minutes(ms: number): string {
  return ms < 90_000 ? `${Math.ceil(ms / 1000)} s` : `${Math.ceil(ms / 60_000)} min`;
}
