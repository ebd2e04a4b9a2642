/** The harness with the site's own settings, but for the service worker and the seal. */

import { fileURLToPath } from "node:url";

import { defineConfig } from "vite";

import site from "../../vite.config.ts";
import { onnxruntime } from "../../vite/onnxruntime.ts";

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));

export default defineConfig({
  base: site.base,
  resolve: site.resolve,
  worker: site.worker,
  root: here("."),
  build: { ...site.build, rolldownOptions: { input: here("index.html") } },
  plugins: [onnxruntime(here("../../node_modules/onnxruntime-web/dist"))],
});
