/** The page's side: a model that lives in a worker, so that the page never freezes. */

import type { Answers, Ask, Notes, Question, Reply, Timing } from "./messages";
import { EngineError, type LoadOptions, type LoadProgress, type ModelInfo, type Part, type Picture } from "./types";
import type { Request, Settings, Step } from "./types";
import { Watch } from "./watch";

export * from "./types";

interface Pending {
  resolve: (value: never) => void;
  reject: (error: EngineError) => void;
  note: (value: never) => void;
}

export class Model {
  private closed = false;

  private constructor(
    private readonly talk: Conversation,
    readonly info: ModelInfo,
  ) {}

  /** Starts the worker, which fetches and checks the files. Rejects with an EngineError.
   *
   * onStuck: called with true when nothing has moved for a minute, with false once it does; the load goes on either way.
   */
  static async load(
    options: LoadOptions,
    onProgress?: (p: LoadProgress) => void,
    signal?: AbortSignal,
    onStuck: (isStuck: boolean) => void = () => undefined,
  ): Promise<Model> {
    const page = document.baseURI;
    const base = new URL(options.base, page).href;
    const ort = new URL(options.ort ?? "ort/", page).href;
    const plan = new URL(options.plan ?? "plan/", page).href;
    const talk = new Conversation(new Worker(new URL("./worker.ts", import.meta.url), { type: "module", name: "edgesafe" }));
    const watch = new Watch(() => talk.ask({ kind: "ping" }), onStuck);
    const note = (progress: LoadProgress) => {
      watch.progress();
      onProgress?.(progress);
    };
    const stop = () => talk.end(stopped());
    signal?.addEventListener("abort", stop);
    try {
      if (signal?.aborted) throw stopped();
      return new Model(talk, await talk.ask({ kind: "load", options: { ...options, base, ort, plan } }, note));
    } catch (error) {
      talk.end(stopped());
      throw error;
    } finally {
      watch.end();
      signal?.removeEventListener("abort", stop);
    }
  }

  /** One picture at a time. */
  generate(request: Request, onStep?: (s: Step) => void, signal?: AbortSignal): Promise<Picture> {
    return this.stoppable({ kind: "generate", request }, onStep, signal);
  }

  /** Milliseconds of each timed run, by the worker's clock: up to `runs` of them after the warm-up, at least three, until `limitMs`. */
  time(
    part: Part,
    settings: Settings,
    runs: number,
    warmUp: number,
    limitMs: number,
    onRun?: (n: number) => void,
    signal?: AbortSignal,
  ): Promise<number[]> {
    const timing: Timing = { part, settings, runs, warmUp, limitMs };
    return this.stoppable({ kind: "time", timing }, onRun, signal);
  }

  /** Ends the worker; what was going on rejects with "stopped". */
  close(): void {
    this.closed = true;
    this.talk.end(stopped());
  }

  private async stoppable<A extends Ask>(ask: A, note?: (value: Notes[A["kind"]]) => void, signal?: AbortSignal): Promise<Answers[A["kind"]]> {
    if (this.closed) throw new EngineError("request", "This model is closed. Load it again");
    if (signal?.aborted) throw stopped();
    const stop = () => void this.talk.ask({ kind: "stop" }).catch(() => undefined); // a worker that ended has stopped
    signal?.addEventListener("abort", stop);
    try {
      return await this.talk.ask(ask, note);
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }
}

/** Questions to a worker and what it answers, in whatever order. */
class Conversation {
  private readonly pending = new Map<number, Pending>();
  private ended: EngineError | null = null;
  private isMet = false; // the worker has said something
  private count = 0;

  constructor(private readonly worker: Worker) {
    worker.onmessage = (event: MessageEvent<Reply>) => this.hear(event.data);
    worker.onerror = (event) => {
      event.preventDefault();
      this.end(ended(event.message, this.isMet));
    };
  }

  ask<A extends Ask>(ask: A, note?: (value: Notes[A["kind"]]) => void): Promise<Answers[A["kind"]]> {
    if (this.ended) return Promise.reject(this.ended);
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      this.pending.set(id, { resolve, reject, note: note ?? (() => undefined) } as Pending);
      this.worker.postMessage({ ...ask, id } satisfies Question);
    });
  }

  end(error: EngineError): void {
    this.worker.terminate();
    this.ended ??= error;
    for (const one of this.pending.values()) one.reject(error);
    this.pending.clear();
  }

  private hear(reply: Reply): void {
    this.isMet = true;
    const asked = this.pending.get(reply.id);
    if (!asked) return;
    if (reply.kind === "note") return asked.note(reply.value as never);
    this.pending.delete(reply.id);
    if (reply.kind === "answer") asked.resolve(reply.value as never);
    else asked.reject(new EngineError(reply.fault, reply.message));
  }
}

/** Why a worker ended by itself; message: the browser's, often none. */
function ended(message: string | undefined, isMet: boolean): EngineError {
  if (!message && !isMet) return new EngineError("download", "The script that draws cannot be downloaded. Check the connection and try again");
  const isShort = !message || /memory|alloc/i.test(message); // a browser that ends a worker for want of memory often gives no reason
  const said = `What draws has ended (${message || "the browser gives no reason"})`;
  return new EngineError(isShort ? "memory" : "unsupported", `${said}. ${isShort ? "Close other pages, then reload this one" : "Reload this page"}`);
}

function stopped(): EngineError {
  return new EngineError("stopped", "Stopped");
}
