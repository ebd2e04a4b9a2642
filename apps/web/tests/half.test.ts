import { expect, it } from "vitest";

import { fromHalf, toHalf } from "../src/engine/half";

it("all 65,536 halves come back as they were", () => {
  const all = Uint16Array.from({ length: 65536 }, (_, i) => i).filter((x) => (x & 0x7fff) <= 0x7c00); // but those that are no numbers
  expect(toHalf(fromHalf(all))).toEqual(all);
});

it("between two halves the nearer one is taken, and of two as near the even one", () => {
  const cases: [number, number][] = [
    [1 + 2 ** -11, 1],
    [1 + 3 * 2 ** -11, 1 + 2 ** -9],
    [1 + 2 ** -11 + 2 ** -20, 1 + 2 ** -10],
    [2 ** -25, 0],
    [3 * 2 ** -25, 2 ** -23],
    [65504, 65504],
    [65519, 65504],
    [65520, Infinity],
    [-1e30, -Infinity],
    [0.1, 0.0999755859375],
  ];
  expect([...fromHalf(toHalf(Float32Array.from(cases, ([value]) => value)))]).toEqual(cases.map(([, half]) => half));
});

it("what is no number stays none", () => expect(fromHalf(toHalf(Float32Array.of(NaN)))[0]).toBeNaN());
