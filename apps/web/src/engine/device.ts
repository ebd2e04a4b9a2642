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

/** Raises: EngineError "unsupported" for a browser without WASM SIMD, or one asked for a device that it lacks. */
export async function prepare(options: LoadOptions, ortBase: string): Promise<Machine> {
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(new Uint8Array(SIMD))) {
    throw new EngineError("unsupported", "This browser has no WebAssembly SIMD. Use Chrome or Edge 91, Firefox 89, Safari 16.4, or newer ones");
  }
  const gpu = await adapter();
  const device = options.device ?? (gpu && !isSoftware(gpu) ? "webgpu" : "wasm");
  if (device === "webgpu" && !gpu) {
    throw new EngineError("unsupported", "This browser has no WebGPU, or no adapter for it. Leave the device out, or ask for WASM");
  }
  const wanted = options.threads ?? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS);
  if (!Number.isInteger(wanted) || wanted < 1) throw new EngineError("request", `${wanted} threads: give a whole number from 1 on`);
  const threads = globalThis.crossOriginIsolated ? wanted : 1; // without isolation there is no shared memory
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
