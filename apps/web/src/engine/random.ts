/**
 * torch.randn of a CPU generator, so that a seed gives the picture that `edgesafe generate` gives.
 *
 * Mersenne Twister (Matsumoto and Nishimura 1998) and Box-Muller, as aten/src/ATen/native/cpu/DistributionTemplates.h has them. Torch takes
 * logarithm, sine and cosine in fp32 by whatever the processor has, so the last bits may differ.
 */

const N = 624;
const M = 397;

export class MersenneTwister {
  private readonly state = new Uint32Array(N);
  private index = N;

  constructor(seed: number) {
    this.state[0] = seed % 2 ** 32; // torch too drops the higher half
    for (let i = 1; i < N; i++) {
      const last = this.state[i - 1]! ^ (this.state[i - 1]! >>> 30);
      this.state[i] = Math.imul(1812433253, last) + i;
    }
  }

  /** 32 random bits. */
  next(): number {
    if (this.index === N) this.twist();
    let y = this.state[this.index++]!;
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  private twist(): void {
    const s = this.state;
    for (let i = 0; i < N; i++) {
      const y = (s[i]! & 0x80000000) | (s[(i + 1) % N]! & 0x7fffffff);
      s[i] = s[(i + M) % N]! ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.index = 0;
  }
}

/** `count` values of unit variance. */
export function randn(seed: number, count: number): Float32Array {
  const twister = new MersenneTwister(seed);
  return count < 16 ? single(twister, count) : blocks(twister, count);
}

/** Blocks of 16: eight radii, eight angles. A last block that is not full is drawn anew over the 16 values at the end. */
function blocks(twister: MersenneTwister, count: number): Float32Array {
  const values = new Float32Array(count);
  const uniform = () => (twister.next() & 0xffffff) / 2 ** 24;
  for (let i = 0; i < count; i++) values[i] = uniform();
  for (let i = 0; i + 16 <= count; i += 16) boxMuller(values.subarray(i, i + 16));
  if (count % 16 !== 0) {
    const last = values.subarray(count - 16);
    for (let i = 0; i < 16; i++) last[i] = uniform();
    boxMuller(last);
  }
  return values;
}

function boxMuller(block: Float32Array): void {
  for (let j = 0; j < 8; j++) {
    const radius = Math.sqrt(-2 * Math.log(1 - block[j]!));
    const angle = 2 * Math.PI * block[j + 8]!;
    block[j] = radius * Math.cos(angle);
    block[j + 8] = radius * Math.sin(angle);
  }
}

/** Fewer than 16: in fp64, two at a time. */
function single(twister: MersenneTwister, count: number): Float32Array {
  const uniform = () => {
    const high = twister.next() & 0x1fffff; // 53 bits of the 64
    return (high * 2 ** 32 + twister.next()) / 2 ** 53;
  };
  const values = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const angle = 2 * Math.PI * uniform();
    const radius = Math.sqrt(-2 * Math.log1p(-uniform()));
    values[i] = radius * Math.cos(angle);
    if (i + 1 < count) values[i + 1] = radius * Math.sin(angle);
  }
  return values;
}
