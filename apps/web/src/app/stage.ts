/** The board where a sticker appears: loading, empty, drawing with a live preview, done, or a fault. */

import type { LoadProgress, Pixels, Step } from "../engine/types";
import { by, h, say } from "./dom";
import { buttons, paint } from "./files";
import type { Sticker } from "./store";
import { fault, mebibytes, seconds } from "./words";

type State = "loading" | "empty" | "drawing" | "done" | "fault";
const PHASES = { download: "Fetching the model", check: "Checking every byte", compile: "Getting ready to draw" };

export class Stage {
  private started = 0;
  private done = false; // a finished sticker is on the board

  loading(progress?: LoadProgress): void {
    this.state("loading");
    if (!progress) return this.meter(0, "Starting", "");
    const { phase, loaded, total } = progress;
    const size = phase === "download" ? `${mebibytes(loaded)} of ${mebibytes(total)} MiB` : "";
    this.meter(phase === "compile" ? 1 : loaded / Math.max(1, total), PHASES[phase], size);
  }

  /** Nothing moves, or it does again. */
  stuck(isStuck: boolean): void {
    by("stuck").hidden = !isStuck;
    if (isStuck) say(by("stuck").querySelector("span")!.textContent);
  }

  ready(): void {
    this.state(this.done ? "done" : "empty");
  }

  begin(): void {
    this.started = performance.now();
    this.state("drawing");
    this.meter(0, "Sketching", "");
  }

  step({ step, steps, preview }: Step): void {
    if (preview) {
      this.paint(preview, "What is drawn so far");
      by("stage").classList.add("begun");
    }
    const each = (performance.now() - this.started) / step;
    this.meter(step / steps, `Step ${step} of ${steps}`, step > 1 && step < steps ? `${seconds(each * (steps - step))} left` : "");
  }

  show(sticker: Sticker, pixels: Pixels): void {
    this.done = true;
    this.paint(pixels, `Sticker: ${sticker.prompt}`);
    by("actions").replaceChildren(...buttons(sticker));
    this.state("done");
  }

  /** Back to what was there before. */
  stop(): void {
    this.done = false;
    this.state("empty");
  }

  fail(error: unknown, again: () => void): void {
    const { title, message, help } = fault(error);
    const retry = h("button", { type: "button", class: "primary", onclick: again }, "Try again");
    by("fault").replaceChildren(h("h2", {}, title), h("p", {}, message.replace(/[^.!?]$/, "$&.")), h("p", {}, help), retry);
    this.done = false;
    this.state("fault");
  }

  private paint(pixels: Pixels, label: string): void {
    const canvas = by<HTMLCanvasElement>("picture");
    paint(canvas, pixels);
    canvas.setAttribute("aria-label", label);
  }

  private state(state: State): void {
    const stage = by("stage");
    if (stage.dataset.state !== state) stage.classList.remove("begun");
    stage.dataset.state = state;
    by("meter").hidden = state !== "loading" && state !== "drawing";
    by("tip").hidden = state !== "empty";
    by("actions").hidden = state !== "done";
    by("fault").hidden = state !== "fault";
    by("sticker").hidden = state !== "drawing" && state !== "done";
  }

  private meter(share: number, doing: string, left: string): void {
    const bar = by("bar");
    const now = String(Math.round(100 * share));
    bar.setAttribute("aria-valuenow", now);
    bar.setAttribute("aria-valuetext", `${doing} ${left}`.trim());
    bar.style.setProperty("--share", `${now}%`);
    if (by("doing").textContent?.replace(/\d+/g, "") !== doing.replace(/\d+/g, "")) say(doing); // each phase once, and not each step
    by("doing").textContent = doing;
    by("left").textContent = left;
  }
}
