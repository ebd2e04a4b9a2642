/** What the page and the worker say to each other. Each question has a number; its answers carry it. */

import type { Fault, LoadOptions, LoadProgress, ModelInfo, Part, Picture, Request, Settings, Step } from "./types";

export interface Timing {
  part: Part;
  settings: Settings;
  runs: number;
  warmUp: number;
  limitMs: number;
}

export type Ask =
  | { kind: "load"; options: Required<Pick<LoadOptions, "base" | "ort" | "plan">> & LoadOptions }
  | { kind: "generate"; request: Request }
  | { kind: "time"; timing: Timing }
  | { kind: "stop" }
  | { kind: "ping" }; // answered at once, unless the worker computes

export interface Answers {
  load: ModelInfo;
  generate: Picture;
  time: number[];
  stop: null;
  ping: null;
}

export interface Notes {
  load: LoadProgress;
  generate: Step;
  time: number; // runs done
  stop: never;
  ping: never;
}

export type Kind = Ask["kind"];
export type Question = Ask & { id: number };
export type Reply =
  | { id: number; kind: "note"; value: Notes[Kind] }
  | { id: number; kind: "answer"; value: Answers[Kind] }
  | { id: number; kind: "fault"; fault: Fault; message: string };
