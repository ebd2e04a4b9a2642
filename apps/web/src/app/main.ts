/** The sticker maker: gets the model, then puts the form, the board, the gallery and the sheet together. */

import { Model } from "../engine/client";
import { by, toast } from "./dom";
import { reason } from "./files";
import { Gallery } from "./gallery";
import { Maker } from "./maker";
import { prepare, showOffline } from "./offline";
import { read, type Papers } from "./papers";
import { open } from "./sheet";
import { Stage } from "./stage";

const BASE = new URL("model/", document.baseURI).href;

const stage = new Stage();
const gallery = new Gallery((sticker) => maker.again(sticker));
const maker: Maker = new Maker(stage, gallery, fail, () => void load());
let model: Model | undefined;
let known: Papers | undefined;

async function load(): Promise<void> {
  model?.close();
  maker.unready();
  stage.loading();
  try {
    model = await Model.load(
      { base: BASE },
      (progress) => stage.loading(progress),
      undefined,
      (isStuck) => stage.stuck(isStuck),
    );
    stage.ready();
    maker.ready(model);
    void showOffline(model.info);
  } catch (error) {
    fail(error);
  }
}

function fail(error: unknown): void {
  maker.unready();
  stage.fail(error, () => void load());
}

/** undefined where they cannot be read, which is said. */
async function papers(): Promise<Papers | undefined> {
  try {
    known ??= await read(BASE);
  } catch (error) {
    toast(`The audit and the model card cannot be read (${reason(error)}). Check the connection and try again`);
    return;
  }
  for (const name of ["LICENSE", "NOTICE"]) by(name).hidden = !(name in known.seal.files);
  maker.know(known.audit.artifact.name, known.manifest.base_model.id, known.manifest.concepts);
  return known;
}

async function showPapers(atCard: boolean): Promise<void> {
  const found = known ?? (await papers());
  if (found) open(found, atCard);
}

by("late").remove();
by("reload").onclick = () => location.reload();
stage.loading();
void gallery.load();
await prepare();
for (const id of ["about", "card"]) {
  by<HTMLButtonElement>(id).disabled = false;
  by(id).onclick = () => void showPapers(id === "card");
}
void papers();
void load();
