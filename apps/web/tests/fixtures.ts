/** apps/fixtures, which Python writes. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../../../", import.meta.url);

export function fixture<T>(name: string): T {
  return JSON.parse(text(`apps/fixtures/${name}`)) as T;
}

/** A file of the repository. */
export function text(path: string): string {
  return readFileSync(fileURLToPath(new URL(path, ROOT)), "utf8");
}
