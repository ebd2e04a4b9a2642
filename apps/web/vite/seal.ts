/** site/build.json says of which sources the site was built, so that a test can tell, without Node, whether it is current. */

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

import type { Plugin } from "vite";

// What a build reads; apps/fixtures and tests are not in it. tests/apps/test_engine.py has the same list.
export const SOURCES = ["vite", "src", "public", "bench.html", "index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts"];

function files(root: string, name: string): string[] {
  const path = join(root, name);
  if (!existsSync(path)) return [];
  if (!statSync(path).isDirectory()) return [name];
  return readdirSync(path).flatMap((inner) => files(root, `${name}/${inner}`));
}

/** sha256 of the lines "<sha256 of a file>  <its name>", sorted by name. */
export function digest(root: string): string {
  const names = SOURCES.flatMap((name) => files(root, name))
    .filter((name) => !name.endsWith(".test.ts"))
    .sort();
  const lines = names.map((name) => `${createHash("sha256").update(readFileSync(join(root, name))).digest("hex")}  ${name}\n`);
  return createHash("sha256").update(lines.join("")).digest("hex");
}

export function seal(root: string): Plugin {
  return {
    name: "edgesafe-seal",
    apply: "build",
    generateBundle() {
      const ort = JSON.parse(readFileSync(join(root, "node_modules/onnxruntime-web/package.json"), "utf8")) as { version: string };
      const facts = { sources: digest(root), "onnxruntime-web": ort.version };
      this.emitFile({ type: "asset", fileName: "build.json", source: `${JSON.stringify(facts, null, 1)}\n` });
    },
  };
}
