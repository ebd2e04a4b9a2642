import { describe, expect, it } from "vitest";

import { isInside, needed, parse } from "../src/engine/manifest";

const facts = { sha256: "ab".repeat(32), size: 3 };
const parts = ["text_encoder", "unet", "vae_decoder"].flatMap((part) => [`${part}/config.json`, `${part}/model.onnx`]);
const small = ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json"];
const names = [...parts, ...small, "vae_encoder/model.onnx", "unet/model.onnx_data"];
const files = Object.fromEntries(names.map((name) => [name, facts]));
const good = { schema_version: 1, kind: "export", target: { name: "onnx" }, base_model: { id: "emoji:teacher" }, files };
const text = (changes: object) => JSON.stringify({ ...good, ...changes });

describe("file names", () => {
  it.each(["a", "unet/model.onnx", "unet/model.onnx_data", "a b/c-1+2@3.bin"])("%s stays inside", (name) => expect(isInside(name)).toBe(true));
  it.each(["", "/a", "a/", "a//b", "..", "../a", "a/../b", ".", "./a", "a/.b", "a\\b", "C:/a", "https://a/b", "%2e%2e/a", "a?b", "a#b", "a\nb", "a\0", "ä"])(
    "%j is refused",
    (name) => {
      expect(isInside(name)).toBe(false);
      expect(() => parse(text({ files: { ...files, [name]: facts } }))).toThrow("leads out of the folder");
    },
  );
});

it("what drawing needs is read, with external data and without the encoder", () => {
  const found = needed(parse(text({}))).map((file) => file.name);
  expect(found).toContain("unet/model.onnx_data");
  expect(found).not.toContain("vae_encoder/model.onnx");
  expect(found.length).toBe(names.length - 1);
});

describe("a manifest that cannot be read says why", () => {
  it.each([
    [{ schema_version: 2 }, "schema version 2, and this page reads 1"],
    [{ kind: "run" }, "This is a run, not an export"],
    [{ target: null }, "target is not an object"],
    [{ target: { name: "coreml" } }, "An export for coreml"],
    [{ files: { a: { sha256: "AB".repeat(32), size: 3 } } }, "a needs a sha256 and a size"],
    [{ files: { a: { ...facts, size: -1 } } }, "a needs a sha256 and a size"],
    [{ files: { a: { ...facts, size: 1e300 } } }, "a needs a sha256 and a size"],
    [{ files: [] }, "files is not an object"],
  ])("%j", (changes, said) => expect(() => parse(text(changes))).toThrow(said));

  it("and so does one that is no JSON, or lacks a file", () => {
    expect(() => parse("<!doctype html>")).toThrow("manifest.json is not JSON");
    expect(() => needed(parse(text({ files: { "model_index.json": facts } })))).toThrow("no scheduler/scheduler_config.json");
  });
});
