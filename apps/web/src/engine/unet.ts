/** The UNet as the site's plan cut it, guidance's two rows side by side; without a plan as it was exported. */

import type { OtherRow } from "./other-row";
import { OUTPUT, type Plan } from "./plan";
import { joined, rowsOf, type ModelFile, type Net, type Values } from "./session";

export type Compile = (file: ModelFile, sizes: Record<string, number>) => Promise<Net>;
/** sample (1, C, h, w), one timestep, conditions (rows, S, D) -> noise (rows, C, h, w). */
export type UNet = (sample: Values, timestep: Values, given: Values) => Promise<Float32Array>;

const SMALL = 2 ** 28; // bytes: a smaller one is opened anew for each batch, which makes its calls faster
const GUIDED = 2; // rows of a call with guidance

/** `other`: computes guidance's other row; null where all rows are computed here, one after the other. */
export function openPlanned(plan: Plan, other: OtherRow | null): UNet {
  let [last, rows]: [Values | null, Values[]] = [null, []]; // of the conditions: the same objects in all steps of a picture
  return async (sample, timestep, given) => {
    if (given !== last) [last, rows] = [given, rowsOf(given)];
    const made = rows.map((row, i) => (i === 1 && other ? other.predict({ sample, timestep, given: row }) : null)); // it begins at once
    for (const [i, row] of rows.entries()) made[i] ??= plan.predict({ sample, timestep, given: row });
    return joined((await Promise.all(made)) as Float32Array[]);
  };
}

/** What guidance asks for is opened at once; the rest when it is asked for, from a file that is read `again`: its bytes are not kept. */
export async function openWhole(
  file: ModelFile,
  again: () => Promise<ModelFile>,
  sizes: Record<string, number>,
  compile: Compile,
): Promise<UNet> {
  const isSmall = file.external.reduce((sum, { data }) => sum + data.length, file.model.length) < SMALL;
  const whole = (rows: number, from: ModelFile) => compile(from, isSmall ? { ...sizes, batch_size: rows } : sizes);
  const key = (rows: number) => (isSmall ? rows : 0); // a large one is opened once, for any number of rows
  const open = new Map([[key(GUIDED), await whole(GUIDED, file)]]);
  return async ({ data, dims }, timestep, given) => {
    const rows = given.dims[0]!;
    const net = open.get(key(rows)) ?? (await whole(rows, await again()));
    open.set(key(rows), net);
    const sample = { data: joined(Array<Float32Array>(rows).fill(data)), dims: [rows, ...dims.slice(1)] };
    return net.run({ sample, timestep, encoder_hidden_states: given }, OUTPUT);
  };
}
