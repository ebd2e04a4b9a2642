/** The form: words, seed and settings in, one sticker at a time out. */

import { EngineError, type Model } from "../engine/client";
import type { Request, Sampler } from "../engine/types";
import { by, h, icon, say, toast } from "./dom";
import { png } from "./files";
import type { Gallery } from "./gallery";
import type { Stage } from "./stage";
import type { Sticker } from "./store";
import { asksFor, ideas, type Concept } from "./suggestions";
import { seconds } from "./words";

const IDEAS = 6;
const SEEDS = 2 ** 32;

export class Maker {
  private model: Model | undefined;
  private stopper: AbortController | undefined; // while a sticker is drawn
  private concepts: Concept[] = [];
  private base = "";
  private name = ""; // of the export

  constructor(
    private readonly stage: Stage,
    private readonly gallery: Gallery,
    private readonly onFault: (error: unknown) => void, // of the model, which must then be loaded anew
    private readonly renew: () => void, // ends the model, whatever it does, and loads it anew
  ) {
    by("dice").append(icon("dice"));
    by("shuffle").append(icon("shuffle"));
    by("form").onsubmit = (event) => {
      event.preventDefault();
      if (this.stopper) this.stop();
      else void this.draw();
    };
    by("dice").onclick = () => this.roll();
    by("shuffle").onclick = () => this.suggest();
    prompt().oninput = () => this.hint();
    for (const name of ["steps", "guidance"]) {
      by(name).addEventListener("input", () => (by(`${name}-value`).textContent = by<HTMLInputElement>(name).value));
    }
    seed().addEventListener("input", () => (by<HTMLInputElement>("fresh").checked = false)); // a seed that was typed is meant
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.stopper && !document.querySelector("dialog[open]")) this.stop();
    });
  }

  ready(model: Model): void {
    this.model = model;
    const { device, threads } = model.info;
    const processor = device === "webgpu" ? "the graphics processor (WebGPU)" : `the processor, ${threads} thread${threads > 1 ? "s" : ""} (WebAssembly)`;
    const { width, height, warning } = model.info;
    by("device").textContent = `${width} × ${height} pixels · drawn by ${processor}. ${warning ?? ""}`;
    this.buttons();
  }

  unready(): void {
    this.model = undefined;
    this.buttons();
  }

  /** The export's name, what it is made from and what was erased from it: for ideas and the hint. */
  know(name: string, base: string, concepts: Concept[]): void {
    this.name = name;
    this.base = base;
    this.concepts = concepts;
    this.suggest();
    this.hint();
  }

  again(sticker: Sticker): void {
    prompt().value = sticker.prompt;
    seed().value = String(sticker.seed);
    by<HTMLInputElement>("fresh").checked = false;
    for (const name of ["steps", "guidance", "sampler"] as const) by<HTMLInputElement>(name).value = String(sticker[name]);
    for (const name of ["steps", "guidance"] as const) by(`${name}-value`).textContent = String(sticker[name]);
    this.hint();
    window.scrollTo({ top: 0 });
    void this.draw();
  }

  private async draw(): Promise<void> {
    const model = this.model;
    if (!model || this.stopper) return;
    if (!prompt().value.trim()) {
      by("hint").textContent = "Type a few words first, or take an idea below.";
      return prompt().focus();
    }
    if (by<HTMLInputElement>("fresh").checked) this.roll(true);
    if (!seed().checkValidity()) {
      by<HTMLDetailsElement>("more").open = true;
      seed().reportValidity();
      return;
    }
    const request = asked();
    this.stopper = new AbortController();
    this.buttons();
    this.stage.begin();
    try {
      const picture = await model.generate({ ...request, preview: true }, (step) => this.stage.step(step), this.stopper.signal);
      const { width, height, milliseconds } = picture;
      const sticker: Sticker = { ...request, model: this.name || model.info.name, when: Date.now(), milliseconds, width, height, png: await png(picture) };
      this.stage.show(sticker, picture);
      say(`Done in ${seconds(milliseconds)}: ${request.prompt}`);
      void this.gallery.add(sticker); // the next one need not wait for the disk
    } catch (error) {
      this.failed(error);
    } finally {
      this.stopper = undefined;
      this.buttons();
    }
  }

  private failed(error: unknown): void {
    if (error instanceof EngineError && error.fault === "stopped") {
      if (this.model) this.stage.stop(); // else it is being loaded anew
      toast("Stopped");
    } else if (error instanceof EngineError && error.fault === "request") {
      this.stage.stop();
      by("hint").textContent = error.message;
    } else this.onFault(error);
  }

  /** A model hears it between two steps; whoever does not want to wait for that presses once more. */
  private stop(): void {
    if (this.stopper?.signal.aborted) return this.renew();
    this.stopper?.abort();
    this.buttons();
  }

  private roll(byItself = false): void {
    seed().value = String(crypto.getRandomValues(new Uint32Array(1))[0]! % SEEDS);
    if (!byItself) by<HTMLInputElement>("fresh").checked = false;
  }

  private suggest(): void {
    const chip = (idea: string) => {
      const take = () => {
        prompt().value = idea;
        this.hint();
        if (this.model && !this.stopper) void this.draw();
      };
      return h("li", {}, h("button", { type: "button", class: "chip", onclick: take }, idea));
    };
    const found = ideas(IDEAS, this.base, this.concepts);
    by("ideas").replaceChildren(...found.map(chip));
    const shortest = [...found].sort((one, other) => one.length - other.length)[0];
    prompt().placeholder = shortest ? `such as ${shortest}` : "";
  }

  private hint(): void {
    const erased = asksFor(prompt().value, this.concepts);
    by("hint").textContent = erased ? `“${erased.name}” was erased from this model. It draws what else you ask for.` : "";
  }

  private buttons(): void {
    const draw = by<HTMLButtonElement>("draw");
    draw.disabled = !this.model;
    draw.textContent = !this.stopper ? "Draw" : this.stopper.signal.aborted ? "Stopping" : "Stop";
    draw.classList.toggle("stop", Boolean(this.stopper));
  }
}

const prompt = () => by<HTMLInputElement>("prompt");
const seed = () => by<HTMLInputElement>("seed");

function asked(): Request {
  const value = (id: string) => by<HTMLInputElement>(id).value;
  return {
    prompt: value("prompt").trim(),
    seed: Number(value("seed")),
    steps: Number(value("steps")),
    guidance: Number(value("guidance")),
    sampler: value("sampler") as Sampler,
  };
}
