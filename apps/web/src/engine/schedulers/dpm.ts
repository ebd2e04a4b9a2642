/**
 * DPM-Solver++ of second order, multistep, midpoint (Lu 2022, arXiv 2211.01095, algorithm 2).
 *
 *     z_t = (s_t / s_s) z_s - a_t (exp(-h) - 1) (x0 + (x0 - x0_before) h / (2 h_before)),   h = log(a_t / s_t) - log(a_s / s_s)
 *
 * The first step and, because the last noise is zero, the last one are of first order.
 */

import { linspace, mix, schedule, split, tooMany, trailing, unknown, type Schedule, type Scheduler, type SchedulerConfig } from "./schedule";

// What diffusers' own scheduler offers beyond this; a model's config that asks for one is refused by its name.
const PLAIN = {
  solver_order: 2,
  solver_type: "midpoint",
  use_karras_sigmas: false,
  use_exponential_sigmas: false,
  use_beta_sigmas: false,
  use_lu_lambdas: false,
  use_flow_sigmas: false,
  final_sigmas_type: "zero",
  variance_type: null,
  use_dynamic_shifting: false,
};

export function dpm(config: SchedulerConfig, steps: number): Scheduler {
  const s = schedule(config, { setAlphaToOne: false, spacing: "linspace" }, PLAIN);
  if (typeof config.lambda_min_clipped === "number") throw unknown("lambda_min_clipped", config.lambda_min_clipped);
  if (steps >= s.trained) throw tooMany("dpm++", steps, s.trained);
  const timesteps = spaced(s, steps);
  if (timesteps[0]! >= s.trained) throw tooMany("dpm++", steps, s.trained);
  const alphas = [...timesteps.map((t) => s.alphas[t]!), 1];
  const lambdas = alphas.map((a) => Math.log(a / (1 - a)) / 2);
  let before: Float32Array | null = null;

  return {
    timesteps,
    step(prediction, i, z) {
      const { clean } = split(s.prediction, alphas[i]!, prediction, z);
      const h = lambdas[i + 1]! - lambdas[i]!;
      let target = clean;
      if (before && i < timesteps.length - 1) {
        const ratio = h / (2 * (lambdas[i]! - lambdas[i - 1]!));
        target = mix(1 + ratio, clean, -ratio, before);
      }
      before = clean;
      const [signal, shrink] = [Math.sqrt(alphas[i + 1]!), Math.sqrt((1 - alphas[i + 1]!) / (1 - alphas[i]!))];
      return { latents: mix(shrink, z, -signal * Math.expm1(-h), target), clean };
    },
  };
}

/** Downwards. */
function spaced(s: Schedule, steps: number): number[] {
  if (s.spacing === "linspace") return linspace(s.trained - 1, steps + 1).reverse().slice(0, -1);
  if (s.spacing === "trailing") return trailing(s.trained, steps);
  if (s.spacing !== "leading") throw unknown("timestep_spacing", s.spacing);
  const stride = Math.floor(s.trained / (steps + 1));
  return Array.from({ length: steps }, (_, i) => (steps - i) * stride + s.offset);
}
