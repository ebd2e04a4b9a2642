/**
 * A model's files: fetched once, checked at every load, kept in the browser's Cache API under the hash of their manifest.
 *
 * A kept file that is no longer what the manifest says is fetched anew once; a fetched one that is not is refused.
 */

import { sha256Hex } from "./digest";
import { parse, type FileFacts, type Manifest } from "./manifest";
import { EngineError, type LoadProgress } from "./types";

const PREFIX = "edgesafe-model-";
const MANIFEST = "manifest.json";
type Bytes = Uint8Array<ArrayBuffer>;

export class Store {
  private notKept: string | null = null;

  private constructor(
    private readonly base: string, // ends with "/"
    readonly manifest: Manifest,
    private readonly cache: Cache | null,
  ) {}

  /** Reads the manifest; without a network, the one that was kept. */
  static async open(base: string): Promise<Store> {
    const url = new URL(MANIFEST, base).href;
    const fetched = await fetch(url, { cache: "no-cache" }).catch(() => null);
    const kept = fetched?.ok ? null : await storage()?.match(url);
    const response = fetched?.ok ? fetched : kept;
    if (!response) throw new EngineError("download", cannot(MANIFEST, fetched ? `the server says ${fetched.status}` : "no answer"));
    const bytes = new Uint8Array(await response.arrayBuffer());
    const manifest = parse(new TextDecoder().decode(bytes));
    const name = PREFIX + (await sha256Hex(bytes));
    const cache = (await storage()?.open(name).catch(() => null)) ?? null;
    const store = new Store(base, manifest, cache);
    if (!kept) {
      await store.keep(url, bytes);
      await forget(url, name);
    }
    return store;
  }

  /** A small file beside the export's, the kept one without a network; null where the host has none. */
  async document(url: string): Promise<Bytes | null> {
    const response = await fetch(url, { cache: "no-cache" }).catch(() => null);
    if (!response) return bytesOf(await this.cache?.match(url));
    if (!response.ok) return null;
    const bytes = new Uint8Array(await response.arrayBuffer());
    await this.keep(url, bytes);
    return bytes;
  }

  /** Each file's bytes, by name. */
  async read(files: readonly FileFacts[], note: (progress: LoadProgress) => void): Promise<Map<string, Bytes>> {
    const total = files.reduce((sum, file) => sum + file.size, 0);
    const found = new Map<string, Bytes>();
    let done = 0;
    for (const file of files) {
      const tell = (phase: LoadProgress["phase"], loaded: number) => note({ phase, file: file.name, loaded: done + loaded, total });
      const bytes = (await this.kept(file, tell)) ?? (await this.fetched(file, tell));
      done += file.size;
      found.set(file.name, bytes);
    }
    return found;
  }

  /** Why the next load will need the network; null if it will not. */
  get warning(): string | null {
    if (!this.cache) return "This browser keeps no files for this page (it was not opened over https), so each visit downloads the model.";
    return this.notKept;
  }

  private async kept(file: FileFacts, tell: (phase: LoadProgress["phase"], loaded: number) => void): Promise<Bytes | null> {
    const url = this.url(file);
    const response = await this.cache?.match(url);
    if (!this.cache || !response) return null;
    tell("check", 0);
    const bytes = new Uint8Array(await response.arrayBuffer());
    if (await isRight(bytes, file)) return bytes;
    await this.cache.delete(url);
    return null;
  }

  private async fetched(file: FileFacts, tell: (phase: LoadProgress["phase"], loaded: number) => void): Promise<Bytes> {
    const url = this.url(file);
    const bytes = await download(url, file, (loaded) => tell("download", loaded));
    tell("check", file.size);
    if (!(await isRight(bytes, file))) throw damaged(file.name, "its sha256 is not the one in manifest.json");
    await this.keep(url, bytes);
    return bytes;
  }

  private async keep(url: string, bytes: Bytes): Promise<void> {
    try {
      await this.cache?.put(url, new Response(bytes));
    } catch (error) {
      this.notKept = `This browser has no room to keep the model (${(error as Error).message}), so each visit downloads it.`;
    }
  }

  private url({ name, url: given }: FileFacts): string {
    if (given) return given;
    const url = new URL(name.split("/").map(encodeURIComponent).join("/"), this.base).href;
    if (!url.startsWith(this.base)) throw new EngineError("manifest", `The file name ${name} leads out of the folder. Do not use this model`);
    return url;
  }
}

async function bytesOf(response: Response | undefined): Promise<Bytes | null> {
  return response ? new Uint8Array(await response.arrayBuffer()) : null;
}

/** Absent where the page was fetched over plain http from another machine. */
function storage(): CacheStorage | undefined {
  return globalThis.caches as CacheStorage | undefined;
}

/** Other models that were kept from this place. */
async function forget(manifestUrl: string, except: string): Promise<void> {
  for (const name of (await storage()?.keys().catch(() => [])) ?? []) {
    if (!name.startsWith(PREFIX) || name === except) continue;
    if (await (await caches.open(name)).match(manifestUrl)) await caches.delete(name);
  }
}

async function isRight(bytes: Bytes, file: FileFacts): Promise<boolean> {
  return bytes.length === file.size && (await sha256Hex(bytes)) === file.sha256;
}

async function download(url: string, file: FileFacts, tell: (loaded: number) => void): Promise<Bytes> {
  const fault = (why: string) => new EngineError("download", cannot(file.name, why));
  const response = await fetch(url, { cache: "no-cache" }).catch((error: Error) => {
    throw fault(error.message);
  });
  if (!response.ok || !response.body) throw fault(`the server says ${response.status}`);
  const bytes = room(file);
  const reader = response.body.getReader();
  let at = 0;
  for (;;) {
    const { done, value } = await reader.read().catch((error: Error) => {
      throw fault(error.message);
    });
    if (done) break;
    if (at + value.length > bytes.length) {
      await reader.cancel();
      throw damaged(file.name, `it has more than the ${file.size} bytes that manifest.json says`);
    }
    bytes.set(value, at);
    at += value.length;
    tell(at);
  }
  if (at < bytes.length) throw damaged(file.name, `it has ${at} bytes, and manifest.json says ${file.size}`);
  return bytes;
}

function room(file: FileFacts): Bytes {
  try {
    return new Uint8Array(file.size);
  } catch {
    const mib = Math.ceil(file.size / 2 ** 20);
    throw new EngineError("memory", `This device has too little memory for the model: ${file.name} alone takes ${mib} MiB. Close other pages and try again`);
  }
}

function cannot(name: string, why: string): string {
  return `${name} cannot be downloaded (${why}). Check the connection and try again`;
}

function damaged(name: string, why: string): EngineError {
  return new EngineError("hash", `${name} is damaged or was changed: ${why}. The model is not used. Reload the page, or put the files on the server again`);
}
