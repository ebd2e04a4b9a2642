/** The samplers by name, as edgesafe/sampling.py has them. */

import type { Sampler } from "../types";
import { ddim } from "./ddim";
import { dpm } from "./dpm";
import { pndm } from "./pndm";
import type { Scheduler, SchedulerConfig } from "./schedule";

export type { Scheduler, SchedulerConfig } from "./schedule";

export const SAMPLERS: Record<Sampler, (config: SchedulerConfig, steps: number) => Scheduler> = { ddim, pndm, "dpm++": dpm };
