/** Your stickers: kept on this device, opened, drawn again, thrown away. */

import { by, h, icon, toast } from "./dom";
import { button, buttons, reason } from "./files";
import * as store from "./store";
import type { Sticker } from "./store";
import { seconds } from "./words";

type Again = (sticker: Sticker) => void;

export class Gallery {
  private stickers: Sticker[] = [];
  private readonly addresses = new Map<Sticker, string>();

  constructor(private readonly again: Again) {
    const viewer = by<HTMLDialogElement>("viewer");
    viewer.addEventListener("click", (event) => {
      if (event.target === viewer) viewer.close(); // beside it
    });
  }

  async load(): Promise<void> {
    try {
      this.stickers = await store.all();
    } catch (error) {
      toast(`This browser keeps no stickers (${reason(error)}). Download those you like`);
    }
    this.show();
  }

  async add(sticker: Sticker): Promise<void> {
    this.stickers.unshift(sticker);
    this.show();
    try {
      sticker.id = await store.keep(sticker);
    } catch (error) {
      toast(`This sticker is not kept (${reason(error)}). Download it if you like it`);
    }
  }

  open(sticker: Sticker): void {
    const viewer = by<HTMLDialogElement>("viewer");
    const at = this.stickers.indexOf(sticker);
    const step = (by: number) => this.stickers[at + by] && this.open(this.stickers[at + by]!);
    const walk = (label: string, symbol: "back" | "next", by: number) =>
      h("button", { type: "button", class: "icon", "aria-label": label, disabled: !this.stickers[at + by], onclick: () => step(by) }, icon(symbol));
    const drawn = `seed ${sticker.seed} · ${sticker.steps} steps · guidance ${sticker.guidance} · ${sticker.sampler} · ${seconds(sticker.milliseconds)}`;
    viewer.replaceChildren(
      h(
        "div",
        { class: "top" },
        walk("Newer", "back", -1),
        walk("Older", "next", 1),
        h("span", { class: "space" }),
        h("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => viewer.close() }, icon("close")),
      ),
      h("div", { class: "sticker" }, h("img", { src: this.address(sticker), alt: sticker.prompt })),
      h("h2", {}, sticker.prompt),
      h("p", { class: "small" }, drawn),
      h("p", { class: "small" }, `${new Date(sticker.when).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })} · ${sticker.model}`),
      h(
        "div",
        { class: "actions" },
        ...buttons(sticker),
        button("Draw again", "again", () => {
          viewer.close();
          this.again(sticker);
        }),
        button("Delete", "bin", () => {
          viewer.close();
          void this.remove(sticker);
        }),
      ),
    );
    viewer.onkeydown = (event) => {
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    };
    if (!viewer.open) viewer.showModal();
  }

  async remove(sticker: Sticker): Promise<void> {
    const at = this.stickers.indexOf(sticker);
    this.stickers.splice(at, 1);
    this.show();
    if (sticker.id !== undefined) await store.remove(sticker.id);
    const undo = async () => {
      this.stickers.splice(at, 0, sticker);
      this.show();
      sticker.id = await store.keep(sticker);
    };
    toast("Deleted", { label: "Undo", run: () => void undo() });
    (by("shelf").querySelectorAll("button")[Math.max(0, at - 1)] ?? by("prompt")).focus();
  }

  private show(): void {
    by("empty").hidden = this.stickers.length > 0;
    by("count").textContent = this.stickers.length ? String(this.stickers.length) : "";
    by("shelf").replaceChildren(...this.stickers.map((sticker) => h("li", {}, this.tile(sticker))));
    for (const [sticker, address] of this.addresses) {
      if (this.stickers.includes(sticker)) continue;
      URL.revokeObjectURL(address);
      this.addresses.delete(sticker);
    }
  }

  private tile(sticker: Sticker): HTMLElement {
    const picture = h("img", { src: this.address(sticker), alt: "", width: sticker.width, height: sticker.height, loading: "lazy" });
    const tile = h("button", { type: "button", class: "tile", title: sticker.prompt, "aria-label": `${sticker.prompt}: open` }, picture);
    tile.onclick = () => this.open(sticker);
    tile.onkeydown = (event) => {
      if (event.key === "Delete") void this.remove(sticker);
    };
    return tile;
  }

  private address(sticker: Sticker): string {
    const known = this.addresses.get(sticker) ?? URL.createObjectURL(sticker.png);
    this.addresses.set(sticker, known);
    return known;
  }
}
