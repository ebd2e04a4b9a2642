/** The service worker: offline use, and a page that may use threads on a host that does not send the headers for it. */

import { by } from "./dom";

const ONCE = "edgesafe-reloaded";

/** Before the model is loaded, so that what is fetched can be kept. May reload the page once, in order to have threads. */
export async function prepare(): Promise<void> {
  if (!("serviceWorker" in navigator) || import.meta.env.DEV) return; // no https, and not this machine: it works, but only online
  try {
    const registration = await navigator.serviceWorker.register("sw.js", { updateViaCache: "none" });
    tellOfUpdates(registration);
    await controlled();
  } catch (error) {
    console.warn(`This page will not work offline: ${String(error)}`);
    return;
  }
  if (!navigator.serviceWorker.controller || crossOriginIsolated || sessionStorage.getItem(ONCE)) return;
  sessionStorage.setItem(ONCE, "yes"); // a browser that refuses isolation must not be reloaded for ever
  location.reload();
  await new Promise(() => undefined);
}

/** Until the worker answers for this page, or five seconds have gone: then without it. */
async function controlled(): Promise<void> {
  if (navigator.serviceWorker.controller) return;
  const taken = new Promise<void>((resolve) => navigator.serviceWorker.addEventListener("controllerchange", () => resolve(), { once: true }));
  const late = new Promise<void>((resolve) => setTimeout(resolve, 5000));
  void navigator.serviceWorker.ready.then((registration) => registration.active?.postMessage("claim")); // after a forced reload
  await Promise.race([taken, late]);
}

function tellOfUpdates(registration: ServiceWorkerRegistration): void {
  const show = () => {
    by("update").hidden = false;
    by("renew").onclick = () => {
      navigator.serviceWorker.addEventListener("controllerchange", () => location.reload(), { once: true });
      registration.waiting?.postMessage("take over");
    };
  };
  const watch = (worker: ServiceWorker | null) =>
    worker?.addEventListener("statechange", () => {
      if (worker.state === "installed" && navigator.serviceWorker.controller) show();
    });
  if (registration.waiting && navigator.serviceWorker.controller) show();
  watch(registration.installing);
  registration.addEventListener("updatefound", () => watch(registration.installing));
}

/** Shows whether the next visit needs a network: the page, its WebAssembly and the model must all be kept. */
export async function showOffline(): Promise<void> {
  const place = by("offline");
  for (let tries = 0; tries < 20; tries++) {
    if (navigator.serviceWorker?.controller && (await isKept())) {
      place.textContent = "Works offline now";
      place.title = "The page and the model are kept on this device";
      place.className = "kept";
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

async function isKept(): Promise<boolean> {
  const names = await caches.keys();
  const held = await Promise.all(names.map(async (name) => ({ name, urls: (await (await caches.open(name)).keys()).map((key) => key.url) })));
  const shell = held.some(({ urls }) => urls.some((url) => url.startsWith(new URL("ort/", document.baseURI).href) && url.endsWith(".wasm")));
  return shell && held.some(({ name, urls }) => name.startsWith("edgesafe-model-") && urls.length > 0);
}
