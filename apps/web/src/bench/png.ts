/**
 * Opaque pixels as a PNG, without a canvas: some browsers add noise to what a page reads back from one, and a benchmark must not.
 *
 * Not compressed (stored deflate blocks), since the picture only crosses the local network.
 */

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const STORED = 65535; // bytes of a stored deflate block, at most
const RGB = 2; // colour type

export function png(rgba: Uint8ClampedArray, width: number, height: number): Uint8Array<ArrayBuffer> {
  const head = new Uint8Array(13);
  const view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8, RGB, 0, 0, 0], 8);
  return joined([new Uint8Array(SIGNATURE), chunk("IHDR", head), chunk("IDAT", zlib(rows(rgba, width, height))), chunk("IEND", new Uint8Array())]);
}

/** Each row begins with its filter: 0, none. */
function rows(rgba: Uint8ClampedArray, width: number, height: number): Uint8Array {
  const out = new Uint8Array(height * (1 + 3 * width));
  let at = 0;
  for (let i = 0; i < rgba.length; i += 4) {
    if ((i / 4) % width === 0) at++;
    out[at++] = rgba[i]!;
    out[at++] = rgba[i + 1]!;
    out[at++] = rgba[i + 2]!;
  }
  return out;
}

function zlib(data: Uint8Array): Uint8Array {
  const parts = [new Uint8Array([0x78, 0x01])];
  for (let at = 0; at < data.length; at += STORED) {
    const part = data.subarray(at, at + STORED);
    const n = part.length;
    parts.push(new Uint8Array([at + n >= data.length ? 1 : 0, n & 255, n >> 8, ~n & 255, (~n >> 8) & 255]), new Uint8Array(part));
  }
  let a = 1;
  let b = 0;
  for (const byte of data) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  return joined([...parts, number((b << 16) | a)]);
}

function chunk(name: string, data: Uint8Array): Uint8Array<ArrayBuffer> {
  const body = joined([new TextEncoder().encode(name), data]);
  return joined([number(data.length), body, number(crc(body))]);
}

function crc(data: Uint8Array): number {
  let value = 0xffffffff;
  for (const byte of data) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  }
  return ~value;
}

function number(value: number): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(4);
  new DataView(out.buffer).setUint32(0, value >>> 0);
  return out;
}

function joined(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
