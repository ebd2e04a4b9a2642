/** Guidance's other row, computed in a worker of its own while this one computes the first: they never wait for each other inside a call. */

import type { Machine } from "./device";
import type { Graphs, Row } from "./plan";
import type { ModelFile, Values } from "./session";
import { EngineError, type Fault } from "./types";

export interface Opening extends Omit<Machine, "ort"> {
  ortBase: string;
  graphs: Graphs;
  file: ModelFile;
}

export type RowAsk = { open: Opening } | { row: Omit<Row, "given">; given?: Values }; // given: where it is not the last one
export type RowReply = { made: Float32Array | null } | { fault: Fault; message: string };

export class OtherRow {
  private given: Values | null = null; // that the worker has
  private settle: ((reply: RowReply) => void) | null = null;

  private constructor(private readonly worker: Worker) {
    const fell = (message: string) => this.settle?.({ fault: "memory", message: `A drawing process ended (${message}). Reload this page` });
    worker.onmessage = ({ data }: MessageEvent<RowReply>) => this.settle?.(data);
    worker.onerror = (event) => fell(event.message || "no reason given");
  }

  /** null where it cannot be had, for want of memory for instance: all rows are then computed in the first worker. */
  static async open(opening: Opening): Promise<OtherRow | null> {
    const row = new OtherRow(new Worker(new URL("./row-worker.ts", import.meta.url), { type: "module", name: "edgesafe-row" }));
    try {
      await row.ask({ open: opening });
      return row;
    } catch {
      row.worker.terminate();
      return null;
    }
  }

  async predict({ given, ...row }: Row): Promise<Float32Array> {
    const ask: RowAsk = given === this.given ? { row } : { row, given };
    this.given = given;
    return (await this.ask(ask))!;
  }

  /** One question at a time. */
  private async ask(ask: RowAsk): Promise<Float32Array | null> {
    const answered = new Promise<RowReply>((resolve) => (this.settle = resolve));
    this.worker.postMessage(ask);
    const reply = await answered;
    if ("fault" in reply) throw new EngineError(reply.fault, reply.message);
    return reply.made;
  }
}
