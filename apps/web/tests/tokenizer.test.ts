import { describe, expect, it } from "vitest";

import { Tokenizer, type TokenizerConfig } from "../src/engine/tokenizer";
import { EngineError } from "../src/engine/types";
import { fixture, text } from "./fixtures";

const made = fixture<{ folder: string; length: number; pad: number; rows: [string, string][] }>("tokenizer.json");
const json = <T>(name: string) => JSON.parse(text(`${made.folder}/${name}`)) as T;
const vocab = json<Record<string, number>>("vocab.json");
const merges = text(`${made.folder}/merges.txt`);
const tokenizer = new Tokenizer(vocab, merges, json<TokenizerConfig>("tokenizer_config.json"));

describe("ids", () => {
  it("are those of CLIPTokenizerFast for 1,000 strings", () => {
    expect(made.rows.length).toBe(1000);
    const unlike = made.rows.filter(([string, ids]) => {
      const wanted = ids.split(" ").map((one) => parseInt(one, 36));
      return JSON.stringify(tokenizer.unpadded(string)) !== JSON.stringify(wanted);
    });
    expect(unlike).toEqual([]);
  });

  it("are always 77, filled up with the padding token", () => {
    for (const [string, ids] of made.rows) {
      const padded = tokenizer.ids(string);
      expect(padded.length).toBe(made.length);
      expect(padded.slice(ids.split(" ").length).every((one) => one === made.pad)).toBe(true);
    }
  });

  it("take half a surrogate pair for the replacement character", () => {
    expect(tokenizer.ids("a\ud800b")).toEqual(tokenizer.ids("a\ufffdb"));
  });

  it("fill up with a padding token of the model's own, which is cut out of a text too", () => {
    const other = new Tokenizer(vocab, merges, { pad_token: { content: "!" } });
    expect(other.ids("red!").filter((one) => one === vocab["!"]).length).toBe(77 - 3);
    expect(tokenizer.ids("red!")).toContain(vocab["!</w>"]);
  });
});

describe("files that are no CLIP tokenizer's", () => {
  it("are refused by name", () => {
    expect(() => new Tokenizer({ a: 0 }, "")).toThrow(EngineError);
    expect(() => new Tokenizer({ a: 0 }, "")).toThrow('vocab.json: no "<|startoftext|>"');
    expect(() => new Tokenizer(vocab, "a b c\n")).toThrow('merges.txt: the line "a b c" is not a pair');
  });
});
