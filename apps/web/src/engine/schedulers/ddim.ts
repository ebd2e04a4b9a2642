/**
 * DDIM without noise (Song 2021, arXiv 2010.02502, formula 12 at sigma = 0).
 *
 *     x0 = (z - sqrt(1 - a_t) e) / sqrt(a_t),   z_(t-1) = sqrt(a_prev) x0 + sqrt(1 - a_prev) e
 */

import { linspace, mix, schedule, split, tooMany, trailing, unknown, type Schedule, type Scheduler, type SchedulerConfig } from "./schedule";

export function ddim(config: SchedulerConfig, steps: number): Scheduler {
  const s = schedule(config, { setAlphaToOne: true, spacing: "leading" });
  const stride = Math.floor(s.trained / steps);
  const timesteps = spaced(s, steps).reverse();
  if (steps > s.trained || timesteps[0]! >= s.trained) throw tooMany("ddim", steps, s.trained);
  return {
    timesteps,
    step(prediction, i, z) {
      const t = timesteps[i]!;
      const before = t - stride >= 0 ? s.alphas[t - stride]! : s.finalAlpha;
      const { noise, clean } = split(s.prediction, s.alphas[t]!, prediction, z);
      return { latents: mix(Math.sqrt(before), clean, Math.sqrt(1 - before), noise), clean };
    },
  };
}

/** Upwards; also PNDM's. */
export function spaced(s: Schedule, steps: number): number[] {
  if (s.spacing === "linspace") return linspace(s.trained - 1, steps);
  if (s.spacing === "leading") return Array.from({ length: steps }, (_, i) => i * Math.floor(s.trained / steps) + s.offset);
  if (s.spacing === "trailing") return trailing(s.trained, steps).reverse();
  throw unknown("timestep_spacing", s.spacing);
}
