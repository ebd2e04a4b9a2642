/** The sticker maker: gets the model, then puts the form, the board, the gallery and the sheet together. */

import { Model } from "../engine/client";
import { by } from "./dom";
import { Gallery } from "./gallery";
import { Maker } from "./maker";
import { prepare, showOffline } from "./offline";
import { read, type Papers } from "./papers";
import { open } from "./sheet";
import { Stage } from "./stage";

const BASE = new URL("model/", document.baseURI).href;

const stage = new Stage();
const gallery = new Gallery((sticker) => maker.again(sticker));
const maker: Maker = new Maker(stage, gallery, fail);
let model: Model | undefined;

async function load(): Promise<void> {
  model?.close();
  maker.unready();
  stage.loading();
  try {
    model = await Model.load({ base: BASE }, (progress) => stage.loading(progress));
    stage.ready();
    maker.ready(model);
    void showOffline();
  } catch (error) {
    fail(error);
  }
}

function fail(error: unknown): void {
  maker.unready();
  stage.fail(error, () => void load());
}

async function showPapers(): Promise<void> {
  let papers: Papers;
  try {
    papers = await read(BASE);
  } catch (error) {
    console.warn(`No audit can be shown: ${String(error)}`);
    return;
  }
  for (const id of ["about", "card"]) {
    by<HTMLButtonElement>(id).disabled = false;
    by(id).onclick = () => open(papers, id === "card");
  }
  for (const name of ["LICENSE", "NOTICE"]) by(name).hidden = !(name in papers.seal.files);
  maker.know(papers.audit.artifact.name, papers.manifest.base_model.id, papers.manifest.concepts);
}

void gallery.load();
await prepare();
void showPapers();
void load();
