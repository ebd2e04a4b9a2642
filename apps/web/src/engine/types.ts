/** What the pages know of the engine: plain data, so that it crosses to the worker and back. */

export type Device = "webgpu" | "wasm";
export type Sampler = "ddim" | "pndm" | "dpm++";
export type Part = "picture" | "unet_call" | "text_encoder" | "vae_decoder";

export interface LoadOptions {
  base: string; // URL of the folder with manifest.json; ends with "/"
  device?: Device; // default: webgpu where there is one
  threads?: number; // of WASM; default: the cores, at most 4; 1 where the page is not cross-origin isolated
  ort?: string; // URL of the folder with onnxruntime-web's loader and WASM; ends with "/"; default: ort/ beside the page
  plan?: string; // URL of the folder with plan.json; ends with "/"; default: plan/ beside the page
}

export interface LoadProgress {
  phase: "download" | "check" | "compile";
  file: string;
  loaded: number; // bytes over all files
  total: number;
}

export interface ModelInfo {
  name: string;
  manifest: Record<string, unknown>; // manifest.json as it is
  width: number; // of a picture, pixels
  height: number;
  latentShape: [number, number, number]; // C, h, w
  device: Device;
  threads: number;
  warning?: string; // why the next load will need the network
}

export interface Settings {
  steps: number;
  guidance: number; // 1 asks the UNet for the text alone
  sampler: Sampler;
}

export interface Request extends Settings {
  prompt: string;
  seed: number; // of the starting noise, as torch.randn draws it
  latents?: Float32Array; // in place of the seed's noise: C * h * w values of unit variance
  preview?: boolean; // a picture with every step
}

export interface Step {
  step: number; // 1 ... steps
  steps: number;
  preview?: Pixels;
}

export interface Pixels {
  rgba: Uint8ClampedArray;
  width: number;
  height: number;
}

export interface Picture extends Pixels {
  milliseconds: number;
}

export type Fault =
  | "memory" // the device has too little
  | "hash" // a file is not what the manifest says
  | "download" // a file cannot be had
  | "manifest" // not an export this page can read
  | "unsupported" // the browser lacks something, such as WASM SIMD
  | "stopped" // the user stopped it
  | "request"; // a prompt or number that cannot be drawn

/** A fault with a message that a person can act on. */
export class EngineError extends Error {
  constructor(
    readonly fault: Fault,
    message: string,
  ) {
    super(message);
  }
}
