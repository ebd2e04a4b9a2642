import { expect, it } from "vitest";

import { MersenneTwister, randn } from "../src/engine/random";
import { fixture } from "./fixtures";

const { rows } = fixture<{ rows: { seed: number; shape: number[]; ends: number[] }[] }>("random.json");

it("the generator is the one of the paper: output 10,000 of seed 5489", () => {
  const twister = new MersenneTwister(5489);
  for (let i = 1; i < 10000; i++) twister.next();
  expect(twister.next()).toBe(4123659995);
});

it.each(rows)("torch.randn of seed $seed, shape $shape", ({ seed, shape, ends }) => {
  const values = randn(seed, shape.reduce((a, b) => a * b));
  const seen = values.length <= 40 ? values : [...values.slice(0, 20), ...values.slice(-20)];
  ends.forEach((wanted, i) => expect(Math.abs(seen[i]! - wanted)).toBeLessThan(4e-6));
});
