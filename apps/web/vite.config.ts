/** Two pages and a service worker become apps/web/site, which runs in any folder of any host. */

import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

import { defineConfig } from "vitest/config";

import { onnxruntime } from "./vite/onnxruntime.ts";
import { seal } from "./vite/seal.ts";
import { serviceWorker } from "./vite/service-worker.ts";

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const pages = ["index.html", "bench.html"].map(here).filter((page) => existsSync(page));

// What WASM with threads asks for: https://developer.mozilla.org/docs/Web/API/Window/crossOriginIsolated
const isolation = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

export default defineConfig({
  base: "./",
  // else onnxruntime-web hides its loader in the bundle, and its threads would load all of the bundle again
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", "module", "browser", "development|production"] },
  worker: { format: "es" },
  server: { headers: isolation },
  preview: { headers: isolation },
  build: {
    outDir: "site",
    emptyOutDir: true,
    target: "es2022",
    sourcemap: false,
    reportCompressedSize: false,
    modulePreload: { polyfill: false },
    rolldownOptions: { input: pages },
  },
  plugins: [onnxruntime(here("node_modules/onnxruntime-web/dist")), serviceWorker(here("src/sw.ts")), seal(here("."))],
  test: { include: ["tests/**/*.test.ts", "src/**/*.test.ts"], environment: "node" },
});
