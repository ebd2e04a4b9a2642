import { describe, expect, it } from "vitest";

import { randn } from "../src/engine/random";
import { SAMPLERS, type SchedulerConfig } from "../src/engine/schedulers";
import type { Sampler } from "../src/engine/types";
import { fixture } from "./fixtures";

interface Row {
  config: string;
  sampler: Sampler;
  steps: number;
  timesteps: number[];
  latents: number[][]; // after the first five steps and the last one
}

const { configs, size, rows } = fixture<{ configs: Record<string, SchedulerConfig>; size: number; rows: Row[] }>("schedulers.json");

describe("each scheduler goes diffusers' way", () => {
  it.each(rows)("$sampler, $steps steps, $config", ({ config, sampler, steps, timesteps, latents }) => {
    const scheduler = SAMPLERS[sampler](configs[config]!, steps);
    expect(scheduler.timesteps).toEqual(timesteps);
    let z: Float32Array = randn(0, size);
    const seen = timesteps.map((_, i) => (z = scheduler.step(randn(i + 1, size), i, z).latents));
    const kept = seen.length <= 6 ? seen : [...seen.slice(0, 5), seen.at(-1)!];
    kept.forEach((values, i) => values.forEach((value, k) => {
      const wanted = latents[i]![k]!;
      expect(Math.abs(value - wanted), `step ${i}: ${value}, not ${wanted}`).toBeLessThan(2e-5 * Math.max(1, Math.abs(wanted)));
    }));
  });
});

describe("what no scheduler here can do is refused by name", () => {
  const config = configs.emoji!;
  it("too many steps", () => {
    for (const make of Object.values(SAMPLERS)) expect(() => make(config, 1000)).toThrow("Take fewer");
  });
  it("a config of another kind", () => {
    expect(() => SAMPLERS.ddim({ ...config, beta_schedule: "exp" }, 5)).toThrow('beta_schedule "exp" is not known');
    expect(() => SAMPLERS.ddim({ ...config, thresholding: true }, 5)).toThrow("thresholding true");
    expect(() => SAMPLERS.pndm({ ...config, prediction_type: "sample" }, 5)).toThrow('"sample"');
    expect(() => SAMPLERS["dpm++"]({ ...config, use_karras_sigmas: true }, 5)).toThrow("use_karras_sigmas true");
    expect(() => SAMPLERS["dpm++"]({ ...config, timestep_spacing: "odd" }, 5)).toThrow('timestep_spacing "odd"');
  });
});
