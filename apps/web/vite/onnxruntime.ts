/** onnxruntime-web's loaders lie in ort/ as they are: its threads start from them. Its WASM joins them when a site is written. */

import { createReadStream, readFileSync } from "node:fs";
import { join } from "node:path";

import type { Plugin } from "vite";

export const LOADERS = ["ort-wasm-simd-threaded", "ort-wasm-simd-threaded.asyncify"]; // plain WASM; WASM and WebGPU

export function onnxruntime(dist: string): Plugin {
  return {
    name: "edgesafe-onnxruntime",
    applyToEnvironment: () => true,
    generateBundle() {
      for (const name of LOADERS) {
        this.emitFile({ type: "asset", fileName: `ort/${name}.mjs`, source: readFileSync(join(dist, `${name}.mjs`)) });
      }
    },
    configureServer(server) {
      server.middlewares.use((request, response, next) => {
        const found = /\/ort\/([\w.-]+\.(mjs|wasm))(\?|$)/.exec(request.url ?? "");
        if (!found || !LOADERS.some((name) => found[1]!.startsWith(name))) return next();
        response.setHeader("Content-Type", found[2] === "wasm" ? "application/wasm" : "text/javascript");
        createReadStream(join(dist, found[1]!)).pipe(response);
      });
    },
  };
}
