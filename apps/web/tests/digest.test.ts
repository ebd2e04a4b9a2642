import { createHash } from "node:crypto";

import { afterEach, expect, it, vi } from "vitest";

import { sha256Hex } from "../src/engine/digest";

const bytes = Uint8Array.from({ length: 100_003 }, (_, i) => (i * 7) % 251);
const wanted = createHash("sha256").update(bytes).digest("hex");

afterEach(() => vi.unstubAllGlobals());

it("by crypto.subtle", async () => expect(await sha256Hex(bytes)).toBe(wanted));

it("without it, as on a page over plain http", async () => {
  vi.stubGlobal("crypto", {});
  expect(await sha256Hex(bytes)).toBe(wanted);
});
