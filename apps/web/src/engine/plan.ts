/** plan/plan.json (benchmarks/browser/plan.py): the UNet cut for a browser, refused where it does not belong to the model. */

import { bad, facts, json, record, type FileFacts, type Manifest } from "./manifest";
import type { ModelFile, Net, Tensors, Values } from "./session";
import type { Store } from "./store";

const SCHEMA_VERSION = 1;
const UNET = "unet/model.onnx";
const KEPT = 128; // timesteps whose part is kept: 9 MiB of Stable Diffusion 1.5
export const GRAPHS = ["main", "given", "timed"] as const;
export type Graph = (typeof GRAPHS)[number];
export type Graphs = Map<Graph, Uint8Array>;
export const OUTPUT = "out_sample";

export interface Row {
  sample: Values;
  timestep: Values;
  given: Values;
}

/** Its files by graph; none where the site has no plan. Raises: EngineError "manifest". */
export async function planned(store: Store, base: string): Promise<Map<Graph, FileFacts>> {
  const url = new URL("plan.json", base).href;
  const bytes = await store.document(url);
  return bytes ? parsePlan(new TextDecoder().decode(bytes), store.manifest, base) : new Map();
}

export function parsePlan(text: string, manifest: Manifest, base: string): Map<Graph, FileFacts> {
  const what = "plan/plan.json";
  const raw = record(json(text, what), what);
  if (raw.schema_version !== SCHEMA_VERSION) {
    throw bad(`${what} has schema version ${JSON.stringify(raw.schema_version)}, and this page reads ${SCHEMA_VERSION}. Build the site anew`);
  }
  if (raw.of !== manifest.files.get(UNET)?.sha256) throw bad(`${what} was made for another model. Build the site anew: edgesafe bundle --app web`);
  const files = record(raw.files, `${what}: files`);
  const there = GRAPHS.filter((graph) => Object.hasOwn(files, `${graph}.onnx`));
  return new Map(
    there.map((graph) => [graph, { ...facts(`plan/${graph}.onnx`, files[`${graph}.onnx`]), url: new URL(`${graph}.onnx`, base).href }]),
  );
}

/** One row of the UNet: `given` once a prompt, `timed` once a timestep, `main` in each step. */
export class Plan {
  private readonly prompts = new WeakMap<Values, Tensors>();
  private readonly times = new Map<number, Tensors>();

  private constructor(private readonly nets: { main: Net; given?: Net; timed?: Net }) {}

  /** `unet`: the export's own file, whose weights the graphs refer to. */
  static async open(graphs: Graphs, unet: ModelFile, compile: (file: ModelFile) => Promise<Net>): Promise<Plan> {
    const external = [...unet.external, { path: UNET.split("/")[1]!, data: unet.model }];
    const nets: Partial<Record<Graph, Net>> = {};
    for (const [graph, model] of graphs) nets[graph] = await compile({ name: `plan/${graph}.onnx`, model, external });
    if (!nets.main) throw bad("plan/plan.json names no main.onnx. Build the site anew: edgesafe bundle --app web");
    return new Plan({ ...nets, main: nets.main });
  }

  /** sample (1, C, h, w), given (1, S, D), the same object for the same prompt -> noise (1, C, h, w). */
  async predict({ sample, timestep, given }: Row): Promise<Float32Array> {
    const prompt = this.prompts.get(given) ?? (await this.nets.given?.pass({ encoder_hidden_states: given })) ?? {};
    this.prompts.set(given, prompt);
    const feeds = { sample, timestep, encoder_hidden_states: given };
    return this.nets.main.call({ ...feeds, ...prompt, ...(await this.time(timestep)) }, OUTPUT);
  }

  private async time(timestep: Values): Promise<Tensors> {
    const t = timestep.data[0]!;
    const found = this.times.get(t) ?? (await this.nets.timed?.pass({ timestep })) ?? {};
    this.times.set(t, found);
    if (this.times.size > KEPT) this.times.delete(this.times.keys().next().value!);
    return found;
  }
}
