/** The UNet by what is asked of it: with guidance as the site's plan cut it, otherwise as it was exported. */

import { Plan, type Graph } from "./plan";
import type { ModelFile, Net, Values } from "./session";

export type Bytes = Uint8Array<ArrayBuffer>;
export type Compile = (file: ModelFile, sizes: Record<string, number>) => Promise<Net>;
/** sample (rows, C, h, w), the same latents in each row; one timestep; conditions (rows, S, D) -> noise (rows, C, h, w). */
export type UNet = (sample: Values, timestep: Values, given: Values) => Promise<Float32Array>;

const SMALL = 2 ** 28; // bytes: a smaller one is opened anew for each batch, which makes its calls faster
const GUIDED = 2; // rows of a call with guidance
const OUTPUT = "out_sample";

/** What guidance asks for is opened at once; the rest when it is asked for, from a file that is read `again`: its bytes are not kept.
 *
 * `graphs`: none where there is no plan.
 */
export async function openUNet(
  file: ModelFile,
  again: () => Promise<ModelFile>,
  graphs: Map<Graph, Bytes>,
  sizes: Record<string, number>,
  compile: Compile,
): Promise<UNet> {
  const isSmall = file.external.reduce((sum, { data }) => sum + data.length, file.model.length) < SMALL;
  const whole = (rows: number, from: ModelFile) => compile(from, isSmall ? { ...sizes, batch_size: rows } : sizes);
  const plan = graphs.size ? await Plan.open(graphs, file, (graph) => compile(graph, {})) : null;
  const key = (rows: number) => (isSmall ? rows : 0); // a large one is opened once, for any number of rows
  const open = new Map<number, Net>(plan ? [] : [[key(GUIDED), await whole(GUIDED, file)]]);
  return async (sample, timestep, given) => {
    const rows = given.dims[0]!;
    if (plan && rows === GUIDED) return plan.predict(sample, timestep, given, OUTPUT);
    const net = open.get(key(rows)) ?? (await whole(rows, await again()));
    open.set(key(rows), net);
    return net.run({ sample, timestep, encoder_hidden_states: given }, OUTPUT);
  };
}
