/** A load that does not move: a worker that waits is told apart from one that computes, and a page that slept is not. */

import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { COMPUTING, TICK_MS, WAITING, Watch } from "../src/engine/watch";

let said: boolean[] = [];
beforeEach(() => {
  said = [];
  vi.useFakeTimers();
});
afterEach(() => void vi.useRealTimers());

const ticks = (n: number) => vi.advanceTimersByTimeAsync(n * TICK_MS);
const tell = (isStuck: boolean) => said.push(isStuck);
const answers = () => Promise.resolve();
const never = () => new Promise<never>(() => undefined);

test("a worker that answers and comes no further waits for something", async () => {
  const watch = new Watch(answers, tell);
  await ticks(WAITING - 1);
  expect(said).toEqual([]);
  await ticks(1);
  expect(said).toEqual([true]);
  watch.progress();
  expect(said).toEqual([true, false]);
  await ticks(WAITING - 1);
  watch.progress();
  await ticks(WAITING - 1);
  expect(said).toEqual([true, false]);
  watch.end();
  await ticks(COMPUTING);
  expect(said).toEqual([true, false]);
});

test("a worker that never said anything has not begun", async () => {
  const watch = new Watch(never, tell);
  await ticks(WAITING);
  expect(said).toEqual([true]);
  watch.end();
  expect(said).toEqual([true, false]);
});

test("a worker that computes is given much longer", async () => {
  const watch = new Watch(never, tell);
  watch.progress();
  await ticks(COMPUTING);
  expect(said).toEqual([]);
  await ticks(1);
  expect(said).toEqual([true]);
  watch.end();
});

test("a worker that was ended counts for nothing", async () => {
  const watch = new Watch(() => Promise.reject(new Error("ended")), tell);
  await ticks(1);
  watch.end();
  await ticks(COMPUTING);
  expect(said).toEqual([]);
});
