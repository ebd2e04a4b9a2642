import { describe, expect, it } from "vitest";

import { fileName } from "../src/app/files";
import { asksFor, ideas } from "../src/app/suggestions";
import { atMost, fault, mebibytes, seconds } from "../src/app/words";
import { EngineError } from "../src/engine/types";

const NEON = { name: "neon", kind: "style", terms: ["neon"] };
const BEER = { name: "beer mug", kind: "object", terms: ["beer mug", "beer"] };

describe("suggestions", () => {
  it("never name what was erased, and no subject twice", () => {
    for (let i = 0; i < 200; i++) {
      const found = ideas(6, "emoji:teacher", [NEON, { name: "fox", kind: "object", terms: ["fox"] }]);
      expect(found).toHaveLength(6);
      expect(found.join(" ")).not.toMatch(/neon|fox/);
      expect(new Set(found).size).toBe(6);
    }
  });

  it("are of everyday things for other models", () => {
    expect(ideas(6, "someone/model", []).every((idea) => idea.startsWith("a "))).toBe(true);
  });

  it("give what they have where most was erased", () => {
    const all = { name: "all", kind: "object", terms: ["a"] };
    expect(ideas(6, "someone/model", [all])).toEqual([]);
  });
});

describe("the hint", () => {
  it("knows a concept by its words, whatever stands around them, and not within another word", () => {
    expect(asksFor("a BEER-mug, please", [NEON, BEER])).toBe(BEER);
    expect(asksFor("neon!", [NEON])).toBe(NEON);
    expect(asksFor("neonatal ward", [NEON])).toBeUndefined();
    expect(asksFor("", [NEON, BEER])).toBeUndefined();
  });
});

describe("words", () => {
  it("never round an upper limit down", () => {
    expect([0, 0.02, 0.0203, 0.73, 0.1, 1].map(atMost)).toEqual(["0.0", "2.0", "2.1", "73.0", "10.0", "100.0"].map((n) => `at most ${n} %`));
  });

  it("say sizes and times shortly", () => {
    expect([0, 1.25 * 2 ** 20, 36.7 * 2 ** 20].map(mebibytes)).toEqual(["0.0", "1.3", "37"]);
    expect([940, 9960, 61_000, 600_000].map(seconds)).toEqual(["0.9 s", "10 s", "61 s", "10 min"]);
  });

  it("name a fault and keep the engine's message", () => {
    expect(fault(new EngineError("hash", "unet/model.onnx is damaged"))).toMatchObject({
      title: "A file of the model is damaged",
      message: "unet/model.onnx is damaged",
    });
    expect(fault(new TypeError("x is undefined")).message).toBe("x is undefined");
  });
});

describe("file names", () => {
  it("hold the prompt and the seed in letters that every file system takes", () => {
    expect(fileName({ prompt: "Red apple: “süß”!", seed: 7 })).toBe("red-apple-süß-seed-7.png");
    expect(fileName({ prompt: "../../etc/passwd\0", seed: 0 })).toBe("etc-passwd-seed-0.png");
    expect(fileName({ prompt: "🦊", seed: 1 }, "-512px")).toBe("sticker-seed-1-512px.png");
    expect(fileName({ prompt: "long ".repeat(60), seed: 1 }).length).toBeLessThan(80);
  });
});
