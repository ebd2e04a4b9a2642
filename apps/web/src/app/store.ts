/** The gallery's shelf: IndexedDB, one record a sticker. */

import type { Sampler } from "../engine/types";

export interface Sticker {
  id?: number; // given when it is kept; later ones are larger
  prompt: string;
  seed: number;
  steps: number;
  guidance: number;
  sampler: Sampler;
  model: string;
  when: number; // ms since 1970
  milliseconds: number; // that drawing it took
  width: number;
  height: number;
  png: Blob;
}

const STORE = "stickers";
const NAME = `edgesafe-stickers ${new URL(".", document.baseURI).pathname}`; // other sites may share the origin

let opened: Promise<IDBDatabase> | undefined;

function database(): Promise<IDBDatabase> {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id", autoIncrement: true });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error ?? new Error("IndexedDB cannot be opened"));
  });
  return opened;
}

async function ask<T>(mode: IDBTransactionMode, question: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const transaction = (await database()).transaction(STORE, mode);
  const request = question(transaction.objectStore(STORE));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result); // not before: until then it may still be undone
    transaction.onabort = () => reject(transaction.error ?? request.error ?? new Error("the browser refused"));
  });
}

/** Returns the sticker's id. */
export async function keep(sticker: Sticker): Promise<number> {
  return Number(await ask("readwrite", (store) => store.put(sticker)));
}

export function remove(id: number): Promise<undefined> {
  return ask("readwrite", (store) => store.delete(id));
}

/** The newest first. */
export async function all(): Promise<Sticker[]> {
  return (await ask<Sticker[]>("readonly", (store) => store.getAll())).reverse();
}
