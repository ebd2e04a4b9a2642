/** fp16 as bits, for browsers without Float16Array. */

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** To the nearest, halves to even; what is too large becomes infinite. */
export function toHalf(values: Float32Array): Uint16Array {
  return Uint16Array.from(values, (value) => {
    float[0] = value;
    const x = bits[0]!;
    const sign = (x >>> 16) & 0x8000;
    const magnitude = x & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00; // not a number
    if (magnitude >= 0x47800000) return sign | 0x7c00;
    if (magnitude < 0x38800000) return sign | even(Math.abs(value) * 2 ** 24); // below the smallest normal number
    const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
    return sign | ((rounded - 0x38000000) >>> 13);
  });
}

export function fromHalf(values: Uint16Array): Float32Array {
  return Float32Array.from(values, (x) => {
    const sign = x & 0x8000 ? -1 : 1;
    const [exponent, mantissa] = [(x >>> 10) & 31, x & 1023];
    if (exponent === 31) return mantissa ? NaN : sign * Infinity;
    return exponent ? sign * (1 + mantissa / 1024) * 2 ** (exponent - 15) : sign * mantissa * 2 ** -24;
  });
}

function even(value: number): number {
  const low = Math.floor(value);
  const past = value - low;
  return past > 0.5 || (past === 0.5 && low % 2 === 1) ? low + 1 : low;
}
