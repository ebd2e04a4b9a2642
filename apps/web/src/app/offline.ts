/** The service worker: offline use, and a page that may use threads on a host that does not send the headers for it. */

import type { ModelInfo } from "../engine/types";
import { by } from "./dom";

const PAPERS = ["model/manifest.json", "model/audit.json", "model/bundle.json", "model/README.md", "plan/plan.json"]; // as sw.ts keeps them
const ONCE = "edgesafe-reloaded";
const PATIENCE_MS = 5000; // with the service worker, after which the page goes on without it

/** Before the model is loaded, so that what is fetched can be kept. May reload the page once, in order to have threads. */
export async function prepare(): Promise<void> {
  if (!("serviceWorker" in navigator) || import.meta.env.DEV) return; // no https, and not this machine: it works, but only online
  await Promise.race([controlled(), after(PATIENCE_MS)]);
  if (!navigator.serviceWorker.controller || crossOriginIsolated || sessionStorage.getItem(ONCE)) return;
  sessionStorage.setItem(ONCE, "yes"); // a browser that refuses isolation must not be reloaded for ever
  location.reload();
  await after(PATIENCE_MS);
}

/** Until the worker answers for this page. */
async function controlled(): Promise<void> {
  try {
    const registration = await navigator.serviceWorker.register("sw.js", { updateViaCache: "none" });
    tellOfUpdates(registration);
  } catch (error) {
    console.warn(`This page will not work offline: ${String(error)}`);
    return;
  }
  if (navigator.serviceWorker.controller) return;
  const taken = new Promise<void>((resolve) => navigator.serviceWorker.addEventListener("controllerchange", () => resolve(), { once: true }));
  void navigator.serviceWorker.ready.then((ready) => ready.active?.postMessage("claim")); // after a forced reload
  await taken;
}

function after(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function tellOfUpdates(registration: ServiceWorkerRegistration): void {
  const renew = () => {
    const { waiting } = registration;
    if (!waiting) return location.reload(); // it took over already, as another page asked it to
    waiting.postMessage("take over"); // and then the page is reloaded
    by<HTMLButtonElement>("renew").disabled = true;
    isAsked = true;
  };
  const show = () => {
    by("update").hidden = false;
    by("renew").onclick = renew;
  };
  let [isAsked, wasControlled] = [false, Boolean(navigator.serviceWorker.controller)];
  navigator.serviceWorker.addEventListener("controllerchange", () => {
    if (isAsked) location.reload();
    else if (wasControlled) show();
    wasControlled = true;
  });
  const watch = (worker: ServiceWorker | null) =>
    worker?.addEventListener("statechange", () => {
      if (worker.state === "installed" && navigator.serviceWorker.controller) show();
    });
  if (registration.waiting && navigator.serviceWorker.controller) show();
  watch(registration.installing);
  registration.addEventListener("updatefound", () => watch(registration.installing));
}

/** Shows whether the next visit needs a network: the page, its WebAssembly, the model and its papers must all be kept. */
export async function showOffline({ device, warning }: ModelInfo): Promise<void> {
  if (warning) return; // the engine keeps the model, and says why it could not
  for (let tries = 0; tries < 20; tries++) {
    if (navigator.serviceWorker?.controller) {
      const lacking = await notKept(device);
      if (!lacking.length) return claim();
      // asked for before the service worker answered for this page: it keeps what goes through it
      await Promise.all(lacking.map((name) => fetch(name).then((response) => response.arrayBuffer()).catch(() => undefined)));
    }
    await after(500);
  }
}

function claim(): void {
  const place = by("offline");
  place.textContent = "Works offline now";
  place.title = "The page and the model are kept on this device";
  place.className = "kept";
}

/** What the service worker does not have yet. */
async function notKept(device: ModelInfo["device"]): Promise<string[]> {
  const page = new URL(".", document.baseURI).href;
  const names = (await caches.keys()).filter((name) => /^edgesafe-(shell|papers) /.test(name) && name.includes(` ${page}`));
  const kept = await Promise.all(names.map(async (name) => (await caches.open(name)).keys()));
  const there = new Set(kept.flat().map(({ url }) => url));
  const wasm = `ort/ort-wasm-simd-threaded${device === "webgpu" ? ".asyncify" : ""}.wasm`;
  return [...PAPERS, wasm].filter((name) => !there.has(page + name));
}
