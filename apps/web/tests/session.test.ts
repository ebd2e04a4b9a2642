import { describe, expect, it } from "vitest";

import { named } from "../src/engine/session";
import { EngineError } from "../src/engine/types";

describe("what onnxruntime, WASM and browsers throw", () => {
  it.each([
    new RangeError("Array buffer allocation failed"),
    new RangeError("WebAssembly.Memory(): could not allocate memory"),
    new Error("std::bad_alloc"),
    new Error("Aborted(OOM). Build with -sASSERTIONS for more info."),
    new WebAssembly.RuntimeError("memory access out of bounds"),
    new Error("Device was lost: out of memory"),
    123456,
  ])("%s: too little memory, said plainly", (error) => {
    const { fault, message } = named(error, "unet/model.onnx cannot be opened");
    expect(fault).toBe("memory");
    expect(message).toContain("This device has too little memory for the model");
  });

  it("anything else keeps its words", () => {
    const { fault, message } = named(new Error("no kernel for Frob(1)"), "unet/model.onnx cannot be opened");
    expect([fault, message]).toEqual(["unsupported", "unet/model.onnx cannot be opened in this browser: no kernel for Frob(1)"]);
  });

  it("a fault of ours stays as it is", () => {
    const ours = new EngineError("hash", "x");
    expect(named(ours, "y")).toBe(ours);
  });
});
