/** From a folder's address to a pipeline: files, checks, one session a part. */

import { prepare } from "./device";
import { json, needed, record, type FileFacts } from "./manifest";
import { number } from "./schedulers/schedule";
import { Pipeline } from "./pipeline";
import { planned, type Graph } from "./plan";
import { Net } from "./session";
import { Store } from "./store";
import { Tokenizer, type TokenizerConfig } from "./tokenizer";
import { EngineError, type LoadOptions, type LoadProgress, type ModelInfo } from "./types";
import { openUNet, type Bytes, type Compile } from "./unet";

export async function open(
  options: LoadOptions & { ort: string; plan: string },
  note: (progress: LoadProgress) => void,
): Promise<{ pipeline: Pipeline; info: ModelInfo }> {
  const machine = await prepare(options, options.ort);
  const store = await Store.open(options.base);
  const own = needed(store.manifest);
  const plan = machine.device === "wasm" ? await planned(store, options.plan) : new Map<Graph, FileFacts>(); // its graphs suit WASM
  const files = [...own, ...plan.values()];
  const total = files.reduce((sum, file) => sum + file.size, 0);
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
  const graphs = new Map([...plan].map(([graph, file]) => [graph, bytes.get(file.name)!]));
  const unetFiles = own.filter((file) => file.name.startsWith("unet/"));
  const again = async () => modelFile("unet", await store.read(unetFiles, note));
  const pipeline = new Pipeline({
    tokenizer,
    textEncoder: await compile(modelFile("text_encoder", bytes), { batch_size: 1, sequence_length: tokenizer.length }),
    unet: await openUNet(modelFile("unet", bytes), again, graphs, { height: h, width: w, sequence_length: tokenizer.length }, compile),
    vaeDecoder: await compile(modelFile("vae_decoder", bytes), { batch_size: 1, latent_height: h, latent_width: w }),
    scheduler: config("scheduler/scheduler_config.json"),
    latentShape,
    upscale,
    scaling: number(vae, "scaling_factor", 0.18215),
  });
  bytes.clear(); // the sessions have copies
  const { device, threads } = machine;
  const { name, raw } = store.manifest;
  const info: ModelInfo = { name, manifest: raw, width: w * upscale, height: h * upscale, latentShape, device, threads };
  if (store.warning) info.warning = store.warning;
  return { pipeline, info };
}

function modelFile(part: string, bytes: Map<string, Bytes>) {
  const name = `${part}/model.onnx`;
  const others = [...bytes.keys()].filter((other) => other.startsWith(`${part}/`) && other !== name && !other.endsWith("config.json"));
  return { name, model: bytes.get(name)!, external: others.map((other) => ({ path: other.slice(part.length + 1), data: bytes.get(other)! })) };
}
