/** src/sw.ts becomes sw.js: one classic script under a fixed name, that knows every file of the site it was built with. */

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";

import { build, type Plugin } from "vite";

export function serviceWorker(source: string): Plugin {
  return {
    name: "edgesafe-service-worker",
    apply: "build",
    enforce: "post",
    async generateBundle(_options, bundle) {
      if (!existsSync(source)) return;
      const digest = createHash("sha256");
      const files = Object.keys(bundle)
        .filter((name) => name !== "bench.html" && !name.startsWith("assets/bench")) // apps/site.py leaves the same out of a bundle
        .sort();
      for (const name of files) {
        const made = bundle[name]!;
        digest.update(`${name}\0`).update(made.type === "asset" ? made.source : made.code);
      }
      const made = await build({
        configFile: false,
        logLevel: "warn",
        define: { __FILES__: JSON.stringify(files), __VERSION__: JSON.stringify(digest.digest("hex").slice(0, 16)) },
        build: {
          write: false,
          target: "es2022",
          rolldownOptions: { input: source, output: { format: "iife", entryFileNames: "sw.js" } },
        },
      });
      const [result] = Array.isArray(made) ? made : [made];
      if (!result || !("output" in result)) throw new Error(`${source}: nothing was built`);
      this.emitFile({ type: "asset", fileName: "sw.js", source: result.output[0].code });
    },
  };
}
