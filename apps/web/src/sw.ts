/** Keeps the page for offline use, and sends the headers that WASM threads ask for where the host sends none.
 *
 * The shell (page, scripts, styles, loaders) is fetched when this worker is installed; the WebAssembly joins it when it is first used.
 * The model's large files pass by: the engine checks and keeps them. A newer worker waits until the page says "take over".
 */

export {};
declare const self: ServiceWorkerGlobalScope;
declare const __FILES__: string[]; // by build/service-worker.ts
declare const __VERSION__: string;

const SHELL = `edgesafe-shell ${self.registration.scope} `; // other sites may share the origin, as on GitHub Pages
const CACHE = SHELL + __VERSION__;
const PAPERS = `edgesafe-papers ${self.registration.scope}`;
const PUBLIC = ["icon.svg", "icon-180.png", "icon-512.png", "manifest.webmanifest"];
const FILES = new Set([...__FILES__.filter((name) => name !== "build.json"), ...PUBLIC]);
const WASM = /^ort\/[\w.-]+\.wasm$/;
const SMALL = /^(model\/(manifest\.json|audit\.json|bundle\.json|README\.md|LICENSE|NOTICE|OFL\.txt)|plan\/plan\.json)$/;
const PATIENCE_MS = 4_000; // with a host that does not answer, where a copy is at hand
const SLOW_MS = 30_000; // for which such a host is not waited for again

self.addEventListener("install", (event) => {
  const requests = [...FILES].map((name) => new Request(name, { cache: "reload" }));
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(requests)));
});

self.addEventListener("activate", (event) => {
  const clear = async () => {
    const stale = (await caches.keys()).filter((name) => name.startsWith(SHELL) && name !== CACHE);
    await Promise.all(stale.map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(clear());
});

self.addEventListener("message", (event) => {
  if (event.data === "take over") event.waitUntil(self.skipWaiting());
  if (event.data === "claim") event.waitUntil(self.clients.claim());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const url = new URL(request.url);
  if (request.method !== "GET" || !url.href.startsWith(self.registration.scope)) return;
  const name = url.pathname.slice(new URL(self.registration.scope).pathname.length) || "index.html";
  const answer = FILES.has(name) ? shell(event, name) : WASM.test(name) ? runtime(event, name) : SMALL.test(name) ? newest(event, name) : null;
  if (answer) event.respondWith(answer.then(isolated)); // else this worker would have to live as long as a large download lasts
});

async function shell({ request }: FetchEvent, name: string): Promise<Response> {
  return (await kept(CACHE, name)) ?? fetch(request);
}

async function runtime(event: FetchEvent, name: string): Promise<Response> {
  return (await kept(CACHE, name)) ?? fetchAndKeep(event, CACHE, name);
}

let slowUntil = 0;

/** The host's, or the copy where the host cannot be reached, fails or takes too long. */
async function newest(event: FetchEvent, name: string): Promise<Response> {
  const found = await kept(PAPERS, name);
  const fetched = fetchAndKeep(event, PAPERS, name, { cache: "no-cache" });
  if (!found) return fetched;
  const patience = performance.now() < slowUntil ? 0 : PATIENCE_MS;
  let isLate = true;
  const answered = fetched.then((response) => (response.ok ? response : found)).catch(() => found).finally(() => (isLate = false));
  const late = new Promise<Response>((resolve) => {
    const give = () => {
      if (isLate && patience) slowUntil = performance.now() + SLOW_MS;
      resolve(found);
    };
    setTimeout(give, patience);
  });
  return Promise.race([answered, late]);
}

async function kept(cache: string, name: string): Promise<Response | undefined> {
  return (await caches.open(cache)).match(new URL(name, self.registration.scope).href);
}

async function fetchAndKeep(event: FetchEvent, cache: string, name: string, how: RequestInit = {}): Promise<Response> {
  const address = new URL(name, self.registration.scope).href;
  const response = await fetch(address, how);
  if (response.ok) {
    const copy = response.clone();
    // a full disk must not take the answer away: the file is then fetched again next time
    event.waitUntil(
      caches
        .open(cache)
        .then((opened) => opened.put(address, copy))
        .catch((error: unknown) => console.warn(`${name} is not kept for offline use: ${String(error)}`)),
    );
  }
  return response;
}

/** The same answer, with which a page may share memory between threads. A new Response also forgets a host's redirect of index.html. */
function isolated(response: Response): Response {
  if (response.type === "opaque" || response.type === "opaqueredirect" || response.type === "error") return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  const body = [204, 205, 304].includes(response.status) ? null : response.body;
  return new Response(body, { status: response.status, statusText: response.statusText, headers });
}
