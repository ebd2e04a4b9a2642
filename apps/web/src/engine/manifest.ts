/** manifest.json of an export (edgesafe/artifact.py): what its files are, refused by name where this engine could not draw with it. */

import { EngineError } from "./types";

const SCHEMA_VERSION = 1;
const PART = /^[A-Za-z0-9_][A-Za-z0-9_. +@-]*$/; // of a file's path: no dots in front, nothing that a URL reads otherwise
const SHA256 = /^[0-9a-f]{64}$/;

export interface FileFacts {
  name: string;
  sha256: string;
  size: number; // bytes
  url?: string; // of a file that is not the export's own
}

export interface Manifest {
  raw: Record<string, unknown>;
  name: string; // of the base model
  files: Map<string, FileFacts>;
}

/** Raises: EngineError "manifest". */
export function parse(text: string): Manifest {
  const raw = record(json(text, "manifest.json"), "manifest.json");
  if (raw.schema_version !== SCHEMA_VERSION) {
    throw bad(`manifest.json has schema version ${JSON.stringify(raw.schema_version)}, and this page reads ${SCHEMA_VERSION}. Build the site anew`);
  }
  if (raw.kind !== "export") throw bad(`This is a ${String(raw.kind)}, not an export. Export it: edgesafe export --target onnx`);
  const target = record(raw.target, "manifest.json: target");
  if (target.name !== "onnx") throw bad(`An export for ${String(target.name)}; a browser draws with ONNX. Export it: edgesafe export --target onnx`);
  const files = new Map<string, FileFacts>();
  for (const [name, value] of Object.entries(record(raw.files, "manifest.json: files"))) {
    if (!isInside(name)) throw bad(`manifest.json: the file name ${JSON.stringify(name)} leads out of the folder. Do not use this model`);
    files.set(name, facts(name, value));
  }
  const base = record(raw.base_model, "manifest.json: base_model");
  return { raw, name: String(base.id), files };
}

/** What drawing needs, each with its external data; the encoder of pictures stays where it is. */
export function needed(manifest: Manifest): FileFacts[] {
  const small = ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json"];
  const parts = ["text_encoder", "unet", "vae_decoder"];
  const names = [...small, ...parts.flatMap((part) => [`${part}/config.json`, `${part}/model.onnx`])];
  const lacking = names.find((name) => !manifest.files.has(name));
  if (lacking) throw bad(`The export has no ${lacking}. Export the model again`);
  const data = [...manifest.files.keys()].filter((name) => parts.includes(name.split("/")[0]!) && !names.includes(name));
  return [...names, ...data].map((name) => manifest.files.get(name)!);
}

/** Raises: EngineError "manifest". */
export function facts(name: string, value: unknown): FileFacts {
  const { sha256, size } = record(value, `manifest.json: ${name}`);
  if (typeof sha256 !== "string" || !SHA256.test(sha256) || !Number.isSafeInteger(size) || (size as number) < 0) {
    throw bad(`manifest.json: ${name} needs a sha256 and a size. Export the model again`);
  }
  return { name, sha256, size: size as number };
}

export function isInside(name: string): boolean {
  return name !== "" && name.split("/").every((part) => PART.test(part));
}

export function json(text: string, name: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw bad(`${name} is not JSON (${(error as Error).message}). Is an export there?`);
  }
}

export function record(value: unknown, name: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw bad(`${name} is not an object. Export the model again`);
  return value as Record<string, unknown>;
}

export function bad(message: string): EngineError {
  return new EngineError("manifest", message);
}
