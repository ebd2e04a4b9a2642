/** What the page says: of faults in plain words, of sizes and times. */

import { EngineError, type Fault } from "../engine/types";

const TITLES: Record<Fault, string> = {
  memory: "This device is short of memory",
  hash: "A file of the model is damaged",
  download: "The model could not be fetched",
  manifest: "This model cannot be read",
  unsupported: "This browser cannot run the model",
  stopped: "Stopped",
  request: "This cannot be drawn",
};
const HELP: Partial<Record<Fault, string>> = {
  memory: "Your stickers are kept.",
  hash: "What is here was measured, file by file; this one is another file.",
  download: "What is here already is not fetched again.",
};

export interface Said {
  title: string;
  message: string; // what exactly happened, with the file's name where one is at fault
  help: string;
}

export function fault(error: unknown): Said {
  if (error instanceof EngineError) return { title: TITLES[error.fault], message: error.message, help: HELP[error.fault] ?? "" };
  return { title: "Something went wrong", message: error instanceof Error ? error.message : String(error), help: "Try again." };
}

export function mebibytes(bytes: number): string {
  const size = bytes / 2 ** 20;
  return size < 10 ? size.toFixed(1) : size.toFixed(0);
}

export function seconds(milliseconds: number): string {
  const time = milliseconds / 1000;
  if (time < 9.95) return `${time.toFixed(1)} s`;
  return time < 90 ? `${Math.round(time)} s` : `${Math.round(time / 60)} min`;
}

/** An upper limit, never rounded down: 0.0203 is "2.1 %", as the model card says. */
export function atMost(share: number): string {
  return `at most ${(Math.ceil(Number((1000 * share).toFixed(6))) / 10).toFixed(1)} %`;
}
