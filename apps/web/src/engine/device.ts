/** What the browser can compute with: WebGPU where there is one, else WASM with SIMD, threads where the page is cross-origin isolated. */

import type * as Ort from "onnxruntime-web";

import { EngineError, type Device, type LoadOptions } from "./types";

export type OrtModule = typeof Ort;

export interface Machine {
  ort: OrtModule;
  device: Device;
  threads: number;
}

const MOST_THREADS = 4; // more of them wait for each other in a UNet of this kind
// (module (func (result v128) (v128.const i32x4 0 0 0 0)))
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 22, 1, 20, 0, 253, 12, ...Array<number>(16).fill(0), 11];

/** What to compute with, and on how many cores. Raises: EngineError "unsupported" for a browser without WASM SIMD, or without the device. */
export async function choose(options: LoadOptions): Promise<{ device: Device; cores: number }> {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(new Uint8Array(SIMD))) {
    throw new EngineError("unsupported", "This browser has no WebAssembly SIMD. Use Chrome or Edge 91, Firefox 89, Safari 16.4, or newer ones");
  }
  const gpu = await adapter();
  const device = options.device ?? (gpu && !isSoftware(gpu) ? "webgpu" : "wasm");
  if (device === "webgpu" && !gpu) {
    throw new EngineError("unsupported", "This browser has no WebGPU, or no adapter for it. Leave the device out, or ask for WASM");
  }
  const cores = options.threads ?? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS);
  if (!Number.isInteger(cores) || cores < 1) throw new EngineError("request", `${cores} threads: give a whole number from 1 on`);
  return { device, cores };
}

/** Threads of each worker. Without isolation there is no memory that threads could share. */
export function shares(cores: number, workers: number): number[] {
  const each = Array.from({ length: workers }, (_, i) => Math.floor((cores + workers - 1 - i) / workers));
  return globalThis.crossOriginIsolated ? each : each.map(() => 1);
}

/** onnxruntime-web for this worker, before its first session. */
export async function start(device: Device, threads: number, ortBase: string): Promise<Machine> {
  const ort: OrtModule = device === "webgpu" ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  const loader = `${ortBase}ort-wasm-simd-threaded${device === "webgpu" ? ".asyncify" : ""}`;
  ort.env.wasm.wasmPaths = { mjs: `${loader}.mjs`, wasm: `${loader}.wasm` };
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return { ort, device, threads };
}

/** As far as TypeScript's own library does not know it. */
interface Adapter {
  info?: { architecture?: string; isFallbackAdapter?: boolean };
}

async function adapter(): Promise<Adapter | null> {
  const { gpu } = navigator as Navigator & { gpu?: { requestAdapter(): Promise<Adapter | null> } };
  return (await gpu?.requestAdapter().catch(() => null)) ?? null;
}

/** A processor that plays a GPU is slower than WASM on it. */
function isSoftware({ info }: Adapter): boolean {
  return info?.isFallbackAdapter === true || info?.architecture === "swiftshader";
}
