/** bench.html: says what will happen, starts on a tap (or goes on after a reload), shows how far it is, and says when it is done. */

import type { Pixels } from "../engine/types";
import { Awake } from "./awake";
import { measure, type View } from "./measure";
import { Refused, Server, type Phase, type Work } from "./server";

const STEPS: [Phase, string][] = [
  ["download", "Download"],
  ["cold start", "Cold start"],
  ["picture", "A whole picture"],
  ["unet_call", "One UNet call"],
  ["text_encoder", "Text encoder"],
  ["vae_decoder", "VAE decoder"],
  ["pictures", "Pictures"],
];
const PULSE_MS = 10_000;
const BEGUN = "edgesafe-begun"; // in sessionStorage: a reload goes on by itself
const RENEWED = "edgesafe-renewed";

const by = (id: string) => document.getElementById(id)!;
const sections = ["intro", "working", "done", "fault"].map(by);
const awake = new Awake((words) => (by("awake").textContent = words));
const server = new Server((lost) => {
  by("detail").textContent = lost ? "The connection is lost. Waiting for it …" : "";
});
const figures = new Map<string, string>();

function show(id: string): void {
  for (const section of sections) section.hidden = section.id !== id;
}

function view(total: number): View {
  const list = by("steps");
  const items = new Map(STEPS.map(([phase, words]) => [phase, item(words)]));
  list.replaceChildren(...items.values());
  return {
    step(phase, share, detail) {
      const at = STEPS.findIndex(([known]) => known === stepOf(phase, items));
      STEPS.forEach(([known], i) => (items.get(known)!.dataset.state = i < at ? "done" : i === at ? "now" : ""));
      by("doing").textContent = STEPS[at]![1];
      by("detail").textContent = detail ?? (share === null ? "" : `${Math.round(100 * share)} %`);
    },
    figure(phase, ms) {
      const words = STEPS.find(([known]) => known === phase)![1];
      figures.set(words, milliseconds(ms));
      items.get(phase)!.querySelector("b")!.textContent = milliseconds(ms);
    },
    progress(left) {
      const share = total ? 100 * (1 - left / total) : 100;
      by("filled").style.inlineSize = `${share}%`;
      by("bar").setAttribute("aria-valuenow", String(Math.round(share)));
      by("left").textContent = left ? `${Math.floor(share)} %` : "";
    },
    picture: paint,
    stuck(isStuck) {
      by("stuck").hidden = !isStuck;
      if (isStuck) void server.fault("Nothing has moved for a while in the page. If it stays so, reload it").catch(() => undefined);
    },
  };
}

/** Checking and compiling belong to the step that loads. */
function stepOf(phase: Phase, items: Map<Phase, HTMLElement>): Phase {
  if (items.has(phase)) return phase;
  return items.get("cold start")!.dataset.state === "now" ? "cold start" : "download";
}

function item(words: string): HTMLElement {
  const line = document.createElement("li");
  line.append(words, document.createElement("b"));
  return line;
}

function paint(pixels: Pixels): void {
  by("frame").hidden = false;
  const canvas = by("picture") as HTMLCanvasElement;
  if (canvas.width !== pixels.width || canvas.height !== pixels.height) [canvas.width, canvas.height] = [pixels.width, pixels.height];
  canvas.getContext("2d")!.putImageData(new ImageData(new Uint8ClampedArray(pixels.rgba), pixels.width, pixels.height), 0, 0);
}

export function milliseconds(ms: number): string {
  return ms >= 10_000 ? `${(ms / 1000).toFixed(1)} s` : ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : ms >= 100 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

async function run(work: Work): Promise<void> {
  sessionStorage.setItem(BEGUN, "1");
  show("working");
  await awake.keep();
  const pulse = setInterval(() => server.pulse(), PULSE_MS);
  try {
    await server.begin();
    await measure(work, server, awake, view(1 + work.parts.length + work.pictures));
    finished();
  } catch (error) {
    await failed(error);
  } finally {
    clearInterval(pulse);
    await awake.release();
  }
}

function finished(): void {
  sessionStorage.removeItem(BEGUN);
  const list = by("figures");
  for (const [words, value] of figures) {
    const [term, figure] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, figure.textContent] = [words, value];
    list.append(term, figure);
  }
  list.hidden = figures.size === 0;
  show("done");
}

async function failed(error: unknown): Promise<void> {
  if (error instanceof Refused && error.status === 401 && !sessionStorage.getItem(RENEWED)) {
    sessionStorage.setItem(RENEWED, "1"); // the server was started anew: it may let this browser in again
    return location.reload();
  }
  const message = error instanceof Error ? error.message : String(error);
  by("message").textContent = message;
  show("fault");
  if (!(error instanceof Refused)) await server.fault(message).catch(() => undefined);
}

async function main(): Promise<void> {
  by("again").addEventListener("click", () => location.reload());
  try {
    const work = await server.work();
    sessionStorage.removeItem(RENEWED);
    by("export").textContent = work.export;
    by("export").hidden = false;
    by("megabytes").textContent = `${Math.round(work.size_mib)} MiB`;
    by("pictures").textContent = String(work.pictures);
    const isolated = globalThis.crossOriginIsolated === true;
    by("threads").textContent = String(navigator.hardwareConcurrency || 1);
    by("how").textContent = navigator.hardwareConcurrency === 1 ? "core" : "cores";
    by("plain").hidden = isolated;
    if (sessionStorage.getItem(BEGUN) || location.hash === "#start") return await run(work);
    show("intro");
    by("start").addEventListener("click", () => void run(work), { once: true });
  } catch (error) {
    await failed(error);
  }
}

void main();
