/**
 * Pseudo linear multistep (Liu 2022, arXiv 2202.09778, formulas 9 and 12), without the Runge-Kutta steps at the start.
 *
 * The first two calls make one step by Heun's method, the next two have lower order; from the fifth on
 *     e' = (55 e_t - 59 e_(t+1) + 37 e_(t+2) - 9 e_(t+3)) / 24
 */

import { spaced } from "./ddim";
import { mix, schedule, split, tooMany, unknown, type Scheduler, type SchedulerConfig } from "./schedule";

const WEIGHTS = [[1], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]; // the newest first

export function pndm(config: SchedulerConfig, steps: number): Scheduler {
  const s = schedule(config, { setAlphaToOne: false, spacing: "leading" });
  if (s.prediction === "sample") throw unknown("prediction_type for pndm", s.prediction);
  const stride = Math.floor(s.trained / steps);
  const up = spaced(s, steps);
  if (steps > s.trained || up[steps - 1]! >= s.trained) throw tooMany("pndm", steps, s.trained);
  const timesteps = [...up.slice(0, -1), ...up.slice(-2, -1), up[steps - 1]!].reverse();
  let first: Float32Array | null = null; // the latents before the first step
  const predictions: Float32Array[] = []; // the newest first

  /** Formula 9; a v prediction becomes noise by the latents that it is applied to. */
  function move(z: Float32Array, from: number, to: number, prediction: Float32Array): Float32Array {
    const a = s.alphas[from]!;
    const b = to >= 0 ? s.alphas[to]! : s.finalAlpha;
    const { noise } = split(s.prediction, a, prediction, z);
    const below = a * Math.sqrt(1 - b) + Math.sqrt(a * (1 - a) * b);
    return mix(Math.sqrt(b / a), z, -(b - a) / below, noise);
  }

  return {
    timesteps,
    step(prediction, i, z) {
      const t = timesteps[i]!;
      const { clean } = split(s.prediction, s.alphas[t]!, prediction, z);
      if (i === 1) {
        const heun = mix(0.5, prediction, 0.5, predictions[0]!);
        return { latents: move(first!, t + stride, t, heun), clean };
      }
      if (i === 0) first = z;
      predictions.unshift(prediction);
      predictions.length = Math.min(predictions.length, 4);
      const weights = WEIGHTS[predictions.length - 1]!;
      const sum = prediction.map((_, k) => weights.reduce((total, weight, n) => total + weight * predictions[n]![k]!, 0));
      return { latents: move(z, t, t - stride, sum), clean };
    },
  };
}
