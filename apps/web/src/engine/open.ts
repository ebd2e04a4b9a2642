/** From a folder's address to a pipeline: files, checks, one session a part. */

import { choose, shares, start } from "./device";
import { json, needed, record, type FileFacts } from "./manifest";
import { number } from "./schedulers/schedule";
import { OtherRow } from "./other-row";
import { Pipeline } from "./pipeline";
import { Plan, planned, type Graph } from "./plan";
import { Net } from "./session";
import { Store } from "./store";
import { Tokenizer, type TokenizerConfig } from "./tokenizer";
import { EngineError, type LoadOptions, type LoadProgress, type ModelInfo } from "./types";
import { openPlanned, openWhole, type Compile } from "./unet";

type Bytes = Uint8Array<ArrayBuffer>;

const TWICE = 2 ** 27; // bytes of a UNet that may lie in memory twice, once for each row of guidance

export async function open(
  options: LoadOptions & { ort: string; plan: string },
  note: (progress: LoadProgress) => void,
): Promise<{ pipeline: Pipeline; info: ModelInfo }> {
  const { device, cores } = await choose(options);
  const store = await Store.open(options.base);
  const own = needed(store.manifest);
  const plan = device === "wasm" ? await planned(store, options.plan) : new Map<Graph, FileFacts>(); // its graphs suit WASM
  const files = [...own, ...plan.values()];
  const unetFiles = own.filter((file) => file.name.startsWith("unet/"));
  const isSplit = plan.size > 0 && cores > 1 && sizeOf(unetFiles) <= TWICE;
  const threads = shares(cores, isSplit ? 2 : 1);
  const machine = await start(device, threads[0]!, options.ort);
  const total = sizeOf(files);
  const bytes = await store.read(files, note);
  const text = (name: string) => new TextDecoder().decode(bytes.get(name)!);
  const config = (name: string) => record(json(text(name), name), name);

  const family = config("model_index.json")._class_name;
  if (family !== "StableDiffusionPipeline") {
    throw new EngineError("manifest", `A ${String(family)}; this page draws with a StableDiffusionPipeline. Draw with \`edgesafe generate\``);
  }
  const [unet, vae] = [config("unet/config.json"), config("vae_decoder/config.json")];
  const size = unet.sample_size as number | [number, number];
  const [h, w] = typeof size === "number" ? [size, size] : size;
  const latentShape: [number, number, number] = [number(unet, "in_channels", 4), h, w];
  const upscale = 2 ** ((vae.block_out_channels as unknown[]).length - 1);
  const tokenizer = new Tokenizer(
    config("tokenizer/vocab.json") as Record<string, number>,
    text("tokenizer/merges.txt"),
    config("tokenizer/tokenizer_config.json") as TokenizerConfig,
  );

  const compile: Compile = async (file, sizes) => {
    note({ phase: "compile", file: file.name, loaded: total, total });
    return Net.open(machine, file, sizes);
  };
  const unetFile = modelFile("unet", bytes);
  const again = async () => modelFile("unet", await store.read(unetFiles, note));
  const graphs = new Map([...plan].map(([graph, file]) => [graph, bytes.get(file.name)!]));
  const other = isSplit ? await OtherRow.open({ device, threads: threads[1]!, ortBase: options.ort, graphs, file: unetFile }) : null;
  const noise = plan.size
    ? openPlanned(await Plan.open(graphs, unetFile, (graph) => compile(graph, {})), other)
    : await openWhole(unetFile, again, { height: h, width: w, sequence_length: tokenizer.length }, compile);
  const pipeline = new Pipeline({
    tokenizer,
    textEncoder: await compile(modelFile("text_encoder", bytes), { batch_size: 1, sequence_length: tokenizer.length }),
    unet: noise,
    vaeDecoder: await compile(modelFile("vae_decoder", bytes), { batch_size: 1, latent_height: h, latent_width: w }),
    scheduler: config("scheduler/scheduler_config.json"),
    latentShape,
    upscale,
    scaling: number(vae, "scaling_factor", 0.18215),
  });
  bytes.clear(); // the sessions have copies
  const { name, raw } = store.manifest;
  const used = threads[0]! + (other ? threads[1]! : 0);
  const info: ModelInfo = { name, manifest: raw, width: w * upscale, height: h * upscale, latentShape, device, threads: used };
  if (store.warning) info.warning = store.warning;
  return { pipeline, info };
}

function modelFile(part: string, bytes: Map<string, Bytes>) {
  const name = `${part}/model.onnx`;
  const others = [...bytes.keys()].filter((other) => other.startsWith(`${part}/`) && other !== name && !other.endsWith("config.json"));
  return { name, model: bytes.get(name)!, external: others.map((other) => ({ path: other.slice(part.length + 1), data: bytes.get(other)! })) };
}

function sizeOf(files: readonly FileFacts[]): number {
  return files.reduce((sum, { size }) => sum + size, 0);
}
