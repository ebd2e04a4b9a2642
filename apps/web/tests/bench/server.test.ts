/** The page's side of the wire: a lost connection is waited for, a refusal is not. */

import { afterEach, expect, test, vi } from "vitest";

import { megabytes, median } from "../../src/bench/measure";
import { Refused, Server } from "../../src/bench/server";

afterEach(() => vi.unstubAllGlobals());

function answers(...given: (Response | Error)[]) {
  const fetch = vi.fn(async () => {
    const next = given.shift()!;
    if (next instanceof Error) throw next;
    return next;
  });
  vi.stubGlobal("fetch", fetch);
  return fetch;
}

test("a lost connection is tried again, ever more slowly, until it is back", async () => {
  const fetch = answers(new TypeError("no network"), new Response("", { status: 503 }), new TypeError("no network"), Response.json({ left: 3 }));
  const [lost, waits]: [boolean[], number[]] = [[], []];
  const server = new Server((now) => lost.push(now), async (ms) => void waits.push(ms));
  expect(await server.latency("unet_call", { warm_up: 5, samples_ms: [1, 2] })).toEqual({ left: 3 });
  expect(fetch).toHaveBeenCalledTimes(4);
  expect([lost, waits]).toEqual([[true, false], [500, 1000, 2000]]);
});

test("a refusal ends in its message", async () => {
  answers(Response.json({ message: "Another browser is being measured already" }, { status: 409 }), new Response("<html>", { status: 404 }));
  const server = new Server(() => undefined);
  await expect(server.work()).rejects.toThrow(new Refused(409, "Another browser is being measured already"));
  await expect(server.work()).rejects.toThrow("The computer refused it (404)");
});

test("progress is told at most once a second, and its failure is nobody's business", async () => {
  const fetch = answers(new TypeError("no network"));
  const server = new Server(() => undefined);
  for (let i = 0; i < 5; i++) server.progress("pictures", i / 4);
  await Promise.resolve();
  expect(fetch).toHaveBeenCalledTimes(1);
});

test("figures in words", () => {
  expect([median([3, 1, 2]), median([4, 1, 2, 3]), megabytes(2 ** 20)]).toEqual([2, 2.5, "1.0 MiB"]);
});
