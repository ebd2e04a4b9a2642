/** What the page and `edgesafe bench` say to each other. A lost connection is waited for; a refusal ends in its message. */

import type { Part, Settings } from "../engine/types";

export interface Work {
  export: string;
  width: number;
  height: number;
  size_mib: number;
  threads: number | null; // of WASM; null: as the engine chooses
  backend: "webgpu" | "wasm" | null;
  turns: number;
  settings: Settings;
  parts: { part: Part; runs: number; warm_up: number; limit_ms: number }[];
  pictures: number;
  cold: { prompt: string; seed: number };
}

export interface Device {
  user_agent: string;
  model: string | null;
  backend: "webgpu" | "wasm";
  threads: number;
  cores: number | null;
  memory_gib: number | null;
  adapter: string | null;
  isolated: boolean;
  clock_ms: number;
}

export interface Left {
  cold: boolean;
  parts: Part[];
  pictures: { id: string; prompt: string; seed: number }[];
}

export interface Cold {
  load_ms: number;
  first_picture_ms: number;
  download_ms: number | null;
  download_bytes: number | null;
  held_mib: number | null;
}

export type Times = { warm_up: number; samples_ms: number[] };
export type Phase = "download" | "check" | "compile" | "cold start" | Part | "pictures" | "waiting";

/** The server understood and said no. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

const LONGEST_MS = 10_000; // between two tries
const PROGRESS_MS = 1000;

export class Server {
  private told = -PROGRESS_MS;
  private last: { doing: Phase; share: number | null } = { doing: "waiting", share: null };

  /** lost: called with true when the connection is lost, with false when it is back. */
  constructor(
    private readonly lost: (lost: boolean) => void,
    private readonly wait: (ms: number) => Promise<void> = (ms) => new Promise((done) => setTimeout(done, ms)),
  ) {}

  work = () => this.ask<Work>("api/work");
  begin = () => this.ask<object>("api/progress", this.last); // whoever comes first is the one that is measured
  hello = (device: Device) => this.ask<Left>("api/hello", device);
  cold = (record: Cold) => this.ask<{ left: number }>("api/cold", record);
  latency = (part: Part, record: Times | { reason: string }) => this.ask<{ left: number }>(`api/latency/${part}`, record);
  picture = (id: string, png: Uint8Array<ArrayBuffer>) => this.ask<{ left: number }>(`api/picture/${id}`, png);
  turn = (n: number, record: Times) => this.ask<object>(`api/turn/${n}`, record);
  fault = (message: string) => this.ask<object>("api/fault", { message: message.slice(0, 500) || "no message" });

  /** At most one a second, and not waited for: a line in the terminal is not worth a pause. */
  progress(doing: Phase, share: number | null): void {
    const now = performance.now();
    if (now - this.told < PROGRESS_MS) return;
    this.told = now;
    this.last = { doing, share: share === null ? null : Math.min(1, Math.max(0, share)) };
    this.pulse();
  }

  /** The last progress once more: the page is still here, however long a picture takes. */
  pulse(): void {
    void this.send("api/progress", this.last).catch(() => undefined);
  }

  private async ask<T>(path: string, body?: object): Promise<T> {
    for (let pause = 500, lost = false; ; pause = Math.min(2 * pause, LONGEST_MS)) {
      const response = await this.send(path, body).catch(() => null);
      if (response && response.status < 500) {
        if (lost) this.lost(false);
        const said = (await response.json().catch(() => ({}))) as { message?: string };
        if (!response.ok) throw new Refused(response.status, said.message ?? `The computer refused it (${response.status})`);
        return said as T;
      }
      if (!lost) this.lost(true);
      lost = true;
      await this.wait(pause);
    }
  }

  private send(path: string, body?: object): Promise<Response> {
    if (body === undefined) return fetch(path, { cache: "no-store" });
    const picture = body instanceof Uint8Array;
    return fetch(path, {
      method: "POST",
      headers: { "Content-Type": picture ? "image/png" : "application/json" },
      body: picture ? (body as Uint8Array<ArrayBuffer>) : JSON.stringify(body),
    });
  }
}
