/** What this browser tells of itself and of the device it runs on. */

import type { ModelInfo } from "../engine/types";
import type { Device } from "./server";

/** What not every browser has. */
interface Told {
  deviceMemory?: number;
  userAgentData?: { getHighEntropyValues(names: string[]): Promise<{ model?: string }> };
  gpu?: { requestAdapter(): Promise<{ info?: { vendor?: string; architecture?: string; description?: string } } | null> };
}

interface Measured extends Performance {
  measureUserAgentSpecificMemory?: () => Promise<{ bytes: number }>;
}

const PATIENCE_MS = 25_000; // Chrome answers after the next garbage collection, within 20 s

export async function device(info: ModelInfo): Promise<Device> {
  const told = navigator as unknown as Told;
  const high = await told.userAgentData?.getHighEntropyValues(["model"]).catch(() => null);
  return {
    user_agent: navigator.userAgent.slice(0, 512) || "unknown",
    model: high?.model?.slice(0, 128) || null,
    backend: info.device,
    threads: info.threads,
    cores: navigator.hardwareConcurrency || null,
    memory_gib: told.deviceMemory ?? null,
    adapter: info.device === "webgpu" ? await adapter(told) : null,
    isolated: globalThis.crossOriginIsolated === true,
    clock_ms: clock(),
  };
}

/** MiB that the page and its workers hold; null where the browser does not tell. */
export async function held(): Promise<number | null> {
  const measure = (performance as Measured).measureUserAgentSpecificMemory;
  if (!measure || !crossOriginIsolated) return null;
  const late = new Promise<null>((done) => setTimeout(() => done(null), PATIENCE_MS));
  const found = await Promise.race([measure.call(performance).catch(() => null), late]);
  return found && found.bytes / 2 ** 20;
}

async function adapter(told: Told): Promise<string | null> {
  const info = (await told.gpu?.requestAdapter().catch(() => null))?.info;
  const words = [info?.vendor, info?.architecture, info?.description].filter(Boolean).join(" ");
  return words.slice(0, 256) || null;
}

/** Milliseconds: the smallest step between two readings. */
function clock(): number {
  let smallest = Infinity;
  for (let i = 0; i < 20; i++) {
    const begun = performance.now();
    let now = begun;
    while (now === begun) now = performance.now();
    smallest = Math.min(smallest, now - begun);
  }
  return Number(smallest.toPrecision(3));
}
