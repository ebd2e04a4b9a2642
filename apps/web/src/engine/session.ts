/** One ONNX file, open: named arrays in, named fp32 arrays out, whatever number types and batch the file asks for. */

import type { InferenceSession, Tensor } from "onnxruntime-web";

import type { Machine, OrtModule } from "./device";
import { fromHalf, toHalf } from "./half";
import { EngineError } from "./types";

export interface Values {
  data: Float32Array;
  dims: number[]; // [] or [1]: one number for all rows; else [rows, ...]
}

export type Tensors = Record<string, Tensor>; // as a session gives them, for another to read

export interface ModelFile {
  name: string; // as in messages
  model: Uint8Array;
  external: { path: string; data: Uint8Array }[];
}

export class Net {
  private readonly types = new Map<string, { type: string; scalar: boolean }>();
  private readonly batch: number | null; // where the file fixes it

  private constructor(
    private readonly ort: OrtModule,
    private readonly name: string,
    private readonly session: InferenceSession,
  ) {
    const inputs = session.inputMetadata.filter((port) => port.isTensor);
    for (const port of inputs) this.types.set(port.name, { type: port.type, scalar: port.shape.length === 0 });
    const rows = inputs.find((port) => port.shape.length > 1)?.shape[0];
    this.batch = typeof rows === "number" && rows > 0 ? rows : null;
  }

  /** `sizes`: of named dimensions that stay as they are, so that onnxruntime computes with them once. */
  static async open({ ort, device }: Machine, file: ModelFile, sizes: Record<string, number> = {}): Promise<Net> {
    try {
      const session = await ort.InferenceSession.create(file.model, {
        executionProviders: [device],
        graphOptimizationLevel: "all",
        logSeverityLevel: 3, // errors; warnings are about its own graph passes
        freeDimensionOverrides: sizes,
        externalData: file.external,
      });
      return new Net(ort, file.name, session);
    } catch (error) {
      throw named(error, `${file.name} cannot be opened`);
    }
  }

  get inputs(): string[] {
    return [...this.types.keys()];
  }

  async run(feeds: Record<string, Values>, output: string): Promise<Float32Array> {
    const lacking = this.inputs.find((name) => !(name in feeds));
    if (lacking) throw new EngineError("manifest", `${this.name} asks for ${lacking}, which this page cannot give. Export the model again`);
    const rows = Math.max(...Object.values(feeds).map((one) => (one.dims.length > 1 ? one.dims[0]! : 1)));
    if (this.batch === null || this.batch === rows) return this.call(feeds, output);
    const made: Float32Array[] = [];
    for (let row = 0; row < rows; row += this.batch) {
      const cut = Object.fromEntries(Object.entries(feeds).map(([name, one]) => [name, taken(one, row, this.batch!)]));
      const values = await this.call(cut, output);
      made.push(values.subarray(0, (values.length / this.batch) * Math.min(this.batch, rows - row)));
    }
    return joined(made);
  }

  async release(): Promise<void> {
    await this.session.release();
  }

  /** One batch: what is given beyond the file's inputs is left out. */
  async call(feeds: Record<string, Values | Tensor>, output: string): Promise<Float32Array> {
    return float32((await this.pass(feeds, [output]))[output]!);
  }

  /** As `call`, but the tensors as they are: all of them, if no names are given. */
  async pass(feeds: Record<string, Values | Tensor>, outputs: readonly string[] = this.session.outputNames): Promise<Tensors> {
    const given = Object.fromEntries([...this.types].map(([name, port]) => [name, this.tensor(feeds[name]!, port)]));
    try {
      return await this.session.run(given, outputs);
    } catch (error) {
      throw named(error, `${this.name} cannot be computed`);
    }
  }

  private tensor(given: Values | Tensor, { type, scalar }: { type: string; scalar: boolean }): Tensor {
    if ("type" in given) return given;
    const { data, dims } = given;
    const shape = dims.length <= 1 ? (scalar ? [] : [1]) : dims;
    if (type === "float32") return new this.ort.Tensor("float32", data, shape);
    if (type === "float16") return new this.ort.Tensor("float16", toHalf(data), shape);
    if (type === "int64") return new this.ort.Tensor("int64", BigInt64Array.from(data, BigInt), shape);
    if (type === "int32") return new this.ort.Tensor("int32", Int32Array.from(data), shape);
    throw new EngineError("manifest", `${this.name} takes ${type}, which this page cannot give. Export the model in fp32 or fp16`);
  }
}

function float32(made: Tensor): Float32Array {
  if (made.type === "float32") return made.data as Float32Array;
  const { buffer, byteOffset, length } = made.data as Uint16Array; // or a Float16Array of the same bits, where there is one
  return fromHalf(new Uint16Array(buffer, byteOffset, length));
}

/** `count` rows from `row` on; past the end, copies of the last one. */
function taken({ data, dims }: Values, row: number, count: number): Values {
  if (dims.length <= 1) return { data, dims };
  const size = data.length / dims[0]!;
  const rows = Array.from({ length: count }, (_, i) => Math.min(row + i, dims[0]! - 1));
  return { data: joined(rows.map((i) => data.subarray(i * size, (i + 1) * size))), dims: [count, ...dims.slice(1)] };
}

export function rowsOf(given: Values): Values[] {
  return Array.from({ length: given.dims[0]! }, (_, i) => taken(given, i, 1));
}

export function joined(parts: Float32Array[]): Float32Array {
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** What onnxruntime, WASM or the browser throw, as a fault; running out of memory has many words. */
export function named(error: unknown, what: string): EngineError {
  if (error instanceof EngineError) return error;
  const said = error instanceof Error ? error.message : `code ${String(error)}`;
  // a bare number is a C++ exception that WASM could not even describe
  if (typeof error === "number" || /memory|bad_alloc|alloc|OOM|Aborted\(\)|device.*lost/i.test(said)) {
    return new EngineError("memory", `This device has too little memory for the model (${said}). Close other pages and apps, then reload this page`);
  }
  return new EngineError("unsupported", `${what} in this browser: ${said.trim()}`);
}
