/** What the samplers share: how much noise a timestep has, which timesteps are taken, and what a prediction says of noise and picture. */

import { EngineError, type Sampler } from "../types";

/** scheduler/scheduler_config.json, of whichever diffusers class. */
export type SchedulerConfig = Record<string, unknown>;

export interface Scheduler {
  readonly timesteps: readonly number[];
  /** From the latents at `timesteps[i]` to the next ones. Calls come in order, each once. `clean`: the picture's latents as seen from here. */
  step(prediction: Float32Array, i: number, latents: Float32Array): { latents: Float32Array; clean: Float32Array };
}

export interface Schedule {
  trained: number; // timesteps in training
  alphas: Float32Array; // share of the picture's variance that is left at a timestep
  finalAlpha: number; // beyond the last one
  prediction: Prediction;
  spacing: string;
  offset: number;
}

export type Prediction = "epsilon" | "v_prediction" | "sample";

const PREDICTIONS: readonly string[] = ["epsilon", "v_prediction", "sample"] satisfies Prediction[];

export interface Defaults {
  setAlphaToOne: boolean;
  spacing: string;
}

/** Reads what all of diffusers' classes call alike; a key that is missing has the default of the class that is asked for. */
export function schedule(config: SchedulerConfig, defaults: Defaults, plain: Record<string, unknown> = {}): Schedule {
  for (const [key, value] of Object.entries({ trained_betas: null, thresholding: false, rescale_betas_zero_snr: false, ...plain })) {
    if ((config[key] ?? value) !== value) throw unknown(key, config[key]);
  }
  const trained = number(config, "num_train_timesteps", 1000);
  const alphas = cumulated(betas(config, trained));
  const prediction = String(config.prediction_type ?? "epsilon");
  if (!PREDICTIONS.includes(prediction)) throw unknown("prediction_type", prediction);
  return {
    trained,
    alphas,
    finalAlpha: (config.set_alpha_to_one ?? defaults.setAlphaToOne) ? 1 : alphas[0]!,
    prediction: prediction as Prediction,
    spacing: String(config.timestep_spacing ?? defaults.spacing),
    offset: number(config, "steps_offset", 0),
  };
}

export function number(config: SchedulerConfig, key: string, otherwise: number): number {
  const value = config[key] ?? otherwise;
  if (typeof value !== "number" || !Number.isFinite(value)) throw unknown(key, value);
  return value;
}

export function unknown(key: string, value: unknown): EngineError {
  const said = `scheduler/scheduler_config.json: ${key} ${JSON.stringify(value)} is not known here`;
  return new EngineError("manifest", `${said}. Draw with \`edgesafe generate\`, or export a model with another scheduler`);
}

export function tooMany(sampler: Sampler, steps: number, trained: number): EngineError {
  return new EngineError("request", `${steps} steps are too many for ${sampler}: the model was trained with ${trained}. Take fewer`);
}

function betas(config: SchedulerConfig, n: number): Float32Array {
  const [first, last] = [number(config, "beta_start", 0.0001), number(config, "beta_end", 0.02)];
  const kind = config.beta_schedule ?? "linear";
  const between = (a: number, b: number, i: number) => Math.fround(a + ((b - a) * i) / Math.max(n - 1, 1));
  if (kind === "linear") return Float32Array.from({ length: n }, (_, i) => between(first, last, i));
  if (kind === "scaled_linear") return Float32Array.from({ length: n }, (_, i) => between(Math.sqrt(first), Math.sqrt(last), i) ** 2);
  if (kind === "squaredcos_cap_v2") {
    const bar = (t: number) => Math.cos((((t + 0.008) / 1.008) * Math.PI) / 2) ** 2;
    return Float32Array.from({ length: n }, (_, i) => Math.min(1 - bar((i + 1) / n) / bar(i / n), 0.999));
  }
  throw unknown("beta_schedule", kind);
}

function cumulated(betas: Float32Array): Float32Array {
  let product = 1;
  return betas.map((beta) => (product *= Math.fround(1 - beta)));
}

/** a x + b y */
export function mix(a: number, x: Float32Array, b: number, y: Float32Array): Float32Array {
  return x.map((value, i) => a * value + b * y[i]!);
}

/** The noise, and the picture's latents, of a prediction at latents z with a share `alpha` of the picture's variance. */
export function split(kind: Prediction, alpha: number, made: Float32Array, z: Float32Array): { noise: Float32Array; clean: Float32Array } {
  const [signal, sigma] = [Math.sqrt(alpha), Math.sqrt(1 - alpha)];
  if (kind === "epsilon") return { noise: made, clean: mix(1 / signal, z, -sigma / signal, made) };
  if (kind === "v_prediction") return { noise: mix(signal, made, sigma, z), clean: mix(signal, z, -sigma, made) };
  return { noise: mix(1 / sigma, z, -signal / sigma, made), clean: made };
}

/** Upwards; numpy's rounding: halves go to the even neighbour. */
export function linspace(last: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => even(count === 1 ? 0 : (i * last) / (count - 1)));
}

/** Downwards from n. */
export function trailing(n: number, steps: number): number[] {
  const ratio = n / steps;
  return Array.from({ length: Math.ceil(n / ratio) }, (_, i) => even(n - i * ratio) - 1);
}

function even(value: number): number {
  const low = Math.floor(value);
  if (value - low !== 0.5) return Math.round(value);
  return low % 2 === 0 ? low : low + 1;
}
