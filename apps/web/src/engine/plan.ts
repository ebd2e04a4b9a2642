/** plan/plan.json (edgesafe/apps/plan.py): the UNet cut for drawing with guidance, refused where it does not belong to the model. */

import { bad, facts, json, record, type FileFacts, type Manifest } from "./manifest";
import type { ModelFile, Net, Tensors, Values } from "./session";
import type { Store } from "./store";

const SCHEMA_VERSION = 1;
const UNET = "unet/model.onnx";
const KEPT = 128; // timesteps whose part is kept: 9 MiB of Stable Diffusion 1.5
export const GRAPHS = ["main", "given", "timed"] as const;
export type Graph = (typeof GRAPHS)[number];

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

/** The UNet's rows for guidance: `given` once a prompt, `timed` once a timestep, `main` in each step. */
export class Plan {
  private conditions: Values | null = null; // that `once` was computed from
  private once: Tensors = {};
  private readonly times = new Map<number, Tensors>();

  private constructor(private readonly nets: { main: Net; given?: Net; timed?: Net }) {}

  /** `unet`: the export's own file, whose weights the graphs refer to. */
  static async open(bytes: Map<Graph, Uint8Array>, unet: ModelFile, compile: (file: ModelFile) => Promise<Net>): Promise<Plan> {
    const external = [...unet.external, { path: UNET.split("/")[1]!, data: unet.model }];
    const nets: Partial<Record<Graph, Net>> = {};
    for (const [graph, model] of bytes) nets[graph] = await compile({ name: `plan/${graph}.onnx`, model, external });
    if (!nets.main) throw bad("plan/plan.json names no main.onnx. Build the site anew: edgesafe bundle --app web");
    return new Plan({ ...nets, main: nets.main });
  }

  /** `sample` (rows, C, h, w): the same latents in both halves, of which the graph may want one. */
  async predict(sample: Values, timestep: Values, given: Values, output: string): Promise<Float32Array> {
    if (given !== this.conditions) {
      this.once = (await this.nets.given?.pass({ encoder_hidden_states: given })) ?? {};
      this.conditions = given;
    }
    const feeds = { sample: this.nets.main.firstRows("sample", sample), timestep, encoder_hidden_states: given };
    return this.nets.main.call({ ...feeds, ...this.once, ...(await this.time(timestep)) }, output);
  }

  private async time(timestep: Values): Promise<Tensors> {
    const t = timestep.data[0]!;
    const found = this.times.get(t) ?? (await this.nets.timed?.pass({ timestep })) ?? {};
    this.times.set(t, found);
    if (this.times.size > KEPT) this.times.delete(this.times.keys().next().value!);
    return found;
  }
}
