/** PNGs of our own making, read back by Node's zlib: the pixels are there, bit by bit. */

import { crc32, inflateSync } from "node:zlib";

import { expect, test } from "vitest";

import { png } from "../../src/bench/png";

function pixels(width: number, height: number): Uint8ClampedArray {
  const out = new Uint8ClampedArray(4 * width * height);
  for (let i = 0; i < out.length; i++) out[i] = i % 4 === 3 ? 255 : (i * 31) % 256;
  return out;
}

test.each([
  [1, 1],
  [64, 64],
  [200, 150], // more than one stored block
])("%i x %i px", (width, height) => {
  const rgba = pixels(width, height);
  const file = Buffer.from(png(rgba, width, height));
  expect(file.subarray(0, 8).toString("latin1")).toBe("\x89PNG\r\n\x1a\n");
  const chunks = new Map<string, Buffer>();
  for (let at = 8; at < file.length; ) {
    const length = file.readUInt32BE(at);
    const body = file.subarray(at + 4, at + 8 + length);
    expect(file.readUInt32BE(at + 8 + length)).toBe(crc32(body));
    chunks.set(body.toString("latin1", 0, 4), body.subarray(4));
    at += 12 + length;
  }
  expect([...chunks.keys()]).toEqual(["IHDR", "IDAT", "IEND"]);
  expect([chunks.get("IHDR")!.readUInt32BE(0), chunks.get("IHDR")!.readUInt32BE(4)]).toEqual([width, height]);
  const raw = inflateSync(chunks.get("IDAT")!); // also holds its Adler-32 against the data
  for (let y = 0; y < height; y++) {
    expect(raw[y * (1 + 3 * width)]).toBe(0);
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) if (raw[y * (1 + 3 * width) + 1 + 3 * x + c] !== rgba[4 * (y * width + x) + c]) expect.fail(`${x}, ${y}, ${c}`);
    }
  }
});
