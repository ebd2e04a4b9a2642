/** A sticker as a PNG: made, named, downloaded, copied, shared. */

import type { Pixels } from "../engine/types";
import { h, icon, toast } from "./dom";
import type { Sticker } from "./store";

const LARGE = 512; // pixels: what messengers take as a sticker

export function paint(canvas: HTMLCanvasElement, pixels: Pixels): void {
  canvas.width = pixels.width;
  canvas.height = pixels.height;
  canvas.getContext("2d")!.putImageData(new ImageData(new Uint8ClampedArray(pixels.rgba), pixels.width, pixels.height), 0, 0);
}

export async function png(pixels: Pixels): Promise<Blob> {
  const canvas = h("canvas");
  paint(canvas, pixels);
  return toBlob(canvas);
}

/** The prompt and seed, in letters that every file system takes: "red-apple-seed-7.png". */
export function fileName(sticker: Pick<Sticker, "prompt" | "seed">, size = ""): string {
  const words = sticker.prompt.normalize("NFC").toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
  return `${[...words].slice(0, 60).join("") || "sticker"}-seed-${sticker.seed}${size}.png`;
}

/** Buttons for what this browser can do with a picture. */
export function buttons(sticker: Sticker): HTMLElement[] {
  const found = [button("Download", "download", () => download(sticker.png, fileName(sticker)))];
  const most = Math.max(sticker.width, sticker.height);
  if (most <= LARGE / 2) {
    const large = button(`${LARGE} px`, "download", async () => download(await enlarged(sticker, LARGE / most), fileName(sticker, `-${LARGE}px`)));
    large.setAttribute("aria-label", `Download at ${LARGE} px`);
    found.push(large);
  }
  if ("ClipboardItem" in window && window.isSecureContext) found.push(button("Copy", "copy", () => copy(sticker)));
  const file = new File([sticker.png], fileName(sticker), { type: "image/png" });
  if (navigator.canShare?.({ files: [file] })) found.push(button("Share", "share", () => share(file, sticker.prompt)));
  return found;
}

export function button(label: string, symbol: Parameters<typeof icon>[0], run: () => unknown): HTMLElement {
  return h("button", { type: "button", class: "quiet", onclick: () => void run() }, icon(symbol), label);
}

function download(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000); // a browser may ask first where to put it
}

async function copy(sticker: Sticker): Promise<void> {
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": sticker.png })]);
    toast("Copied");
  } catch (error) {
    toast(`The browser did not let it be copied (${reason(error)}). Download it instead`);
  }
}

async function share(file: File, title: string): Promise<void> {
  try {
    await navigator.share({ files: [file], title });
  } catch (error) {
    if (!(error instanceof DOMException && error.name === "AbortError")) toast(`It could not be shared (${reason(error)})`);
  }
}

async function enlarged(sticker: Sticker, times: number): Promise<Blob> {
  const picture = await createImageBitmap(sticker.png);
  const canvas = h("canvas", { width: Math.round(picture.width * times), height: Math.round(picture.height * times) });
  const pen = canvas.getContext("2d")!;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return toBlob(canvas);
}

function toBlob(canvas: HTMLCanvasElement): Promise<Blob> {
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("the browser made no PNG of it"))), "image/png"),
  );
}

export function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
