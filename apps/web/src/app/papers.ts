/** What goes with the model: its manifest, audit, the gate's decision and the model card; and whether they are of these very files. */

import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";

import type { Concept } from "./suggestions";

export interface Manifest {
  base_model: { id: string };
  concepts: Concept[];
  files: Record<string, { sha256: string; size: number }>;
}

export interface Verdict {
  concept: string;
  kind: string;
  detector: string;
  sentence: string;
  by_attacker: Record<string, number | null>; // upper 95 % limit of the leak, a share
  cautions: string[];
}

export interface Audit {
  created: string;
  artifact: { name: string; target: string; sha256: string };
  verdicts: Verdict[];
  limits: string[];
}

export interface Rule {
  name: string;
  concept: string | null;
  limit: string;
  found: string;
  passed: boolean | null; // null: shown without a judgement
  why: string;
}

export interface Seal {
  manifest_sha256: string;
  files: Record<string, string>; // name -> sha256
  decision: { policy: string; passed: boolean; rules: Rule[] };
}

export interface Papers {
  manifest: Manifest;
  audit: Audit;
  seal: Seal;
  card: string;
  doubts: string[]; // why these papers may not be of this model; none: each hash fits
}

export async function read(base: string): Promise<Papers> {
  const names = ["manifest.json", "audit.json", "bundle.json", "README.md"] as const;
  const [manifest, audit, seal, card] = await Promise.all(names.map((name) => bytes(base + name)));
  const papers = { manifest: json<Manifest>(manifest!), audit: json<Audit>(audit!), seal: json<Seal>(seal!), card: text(card!) };
  const digest = (data: Uint8Array) => bytesToHex(sha256(data));
  const doubts = [];
  if (papers.audit.artifact.sha256 !== digest(manifest!)) doubts.push("The audit is of another export than the one here.");
  if (papers.seal.manifest_sha256 !== digest(manifest!)) doubts.push("The gate decided on another export than the one here.");
  if (papers.seal.files["audit.json"] !== digest(audit!)) doubts.push("audit.json was changed after the gate decided on it.");
  if (papers.seal.files["README.md"] !== digest(card!)) doubts.push("The model card was changed after it was written.");
  return { ...papers, doubts };
}

async function bytes(address: string): Promise<Uint8Array> {
  const response = await fetch(address, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${address}: the host answers ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

const text = (data: Uint8Array): string => new TextDecoder().decode(data);

function json<T>(data: Uint8Array): T {
  return JSON.parse(text(data)) as T;
}
