/**
 * CLIP's tokenizer from vocab.json and merges.txt, equal to CLIPTokenizerFast; edgesafe/bpe.py says the rules in words.
 */

import { EngineError } from "./types";

const START = "<|startoftext|>";
const END = "<|endoftext|>";
const SUFFIX = "</w>";
const LENGTH = 77;
// Unicode's White_Space; JavaScript's own \s has U+FEFF too and lacks U+0085
const SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const SPACES = new RegExp(`[${SPACE}]+`, "gu");
const WORDS = new RegExp(`'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|[^${SPACE}\\p{L}\\p{N}]+`, "gu");

export interface TokenizerConfig {
  pad_token?: string | { content: string };
  model_max_length?: number;
}

export class Tokenizer {
  private readonly ranks: Map<string, number>; // "first second" -> its place in merges.txt
  private readonly vocab: Map<string, number>;
  private readonly special: string[];
  private readonly cut: RegExp;
  private readonly known = new Map<string, number[]>(); // words met before
  private readonly pad: string;
  readonly length: number;

  constructor(vocab: Record<string, number>, merges: string, config: TokenizerConfig = {}) {
    const pad = config.pad_token ?? END;
    this.pad = typeof pad === "string" ? pad : pad.content;
    this.length = Math.min(config.model_max_length ?? LENGTH, LENGTH);
    this.vocab = new Map(Object.entries(vocab));
    const pairs = merges.split("\n").filter((line) => line && !line.startsWith("#version"));
    const wrong = pairs.find((line) => line.split(" ").length !== 2);
    if (wrong !== undefined) throw new EngineError("manifest", `tokenizer/merges.txt: the line "${wrong}" is not a pair. Export the model again`);
    this.ranks = new Map(pairs.map((pair, rank) => [pair, rank]));
    this.special = [...new Set([START, END, this.pad])];
    const lacking = this.special.find((token) => !this.vocab.has(token));
    if (lacking) throw new EngineError("manifest", `tokenizer/vocab.json: no "${lacking}", so not a CLIP tokenizer's. Export the model again`);
    this.cut = new RegExp(`(${this.special.map((token) => token.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`, "u");
  }

  /** Start, the text's ids as far as they fit, end; filled up to `length`. */
  ids(text: string): number[] {
    const found = this.unpadded(text);
    return [...found, ...Array<number>(this.length - found.length).fill(this.vocab.get(this.pad)!)];
  }

  unpadded(text: string): number[] {
    const found: number[] = [];
    for (const word of this.words(text)) {
      found.push(...this.idsOf(word));
      if (found.length >= this.length - 2) break;
    }
    return [this.vocab.get(START)!, ...found.slice(0, this.length - 2), this.vocab.get(END)!];
  }

  private *words(text: string): Generator<string> {
    const normal = wellFormed(text).normalize("NFC").replace(SPACES, " ");
    const lower = Array.from(normal, (character) => character.toLowerCase()).join(""); // one by one: a final sigma is as any
    for (const part of lower.split(this.cut)) {
      if (this.special.includes(part)) yield part;
      else yield* part.match(WORDS) ?? [];
    }
  }

  private idsOf(word: string): number[] {
    let found = this.known.get(word);
    if (!found) {
      const pieces = this.special.includes(word) ? [word] : this.merge(spelled(word));
      found = pieces.map((piece) => this.vocab.get(piece) ?? this.vocab.get(END)!);
      this.known.set(word, found);
    }
    return found;
  }

  /** Join the pair that stands first in merges.txt, the leftmost of equal ones, until there is none. */
  private merge(symbols: string[]): string[] {
    for (;;) {
      let best = Infinity;
      let at = -1;
      for (let i = 0; i + 1 < symbols.length; i++) {
        const rank = this.ranks.get(`${symbols[i]} ${symbols[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return symbols;
      symbols.splice(at, 2, symbols[at]! + symbols[at + 1]!);
    }
  }
}

/** A half of a surrogate pair is no character; UTF-8 writes U+FFFD in its place. */
function wellFormed(text: string): string {
  return text.replace(/\p{Surrogate}/gu, "\ufffd");
}

function spelled(word: string): string[] {
  const symbols = Array.from(new TextEncoder().encode(word), (byte) => BYTES[byte]!);
  symbols[symbols.length - 1] += SUFFIX;
  return symbols;
}

/** GPT-2's table: a byte that Latin-1 prints stands for itself, the others are numbered from U+0100 on. */
const BYTES: readonly string[] = (() => {
  const printable = (byte: number) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let other = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : other++));
})();
