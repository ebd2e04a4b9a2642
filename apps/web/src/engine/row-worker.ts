/** The other row's side: opens the same plan, and answers one question at a time. */

import { start } from "./device";
import type { RowAsk, RowReply } from "./other-row";
import { Plan } from "./plan";
import { named, Net, type Values } from "./session";

const post = (reply: RowReply) => (self as unknown as Worker).postMessage(reply);

let plan: Plan | null = null;
let given: Values | null = null;

self.onmessage = async ({ data }: MessageEvent<RowAsk>) => {
  try {
    post({ made: await answer(data) });
  } catch (error) {
    const { fault, message } = named(error, "A row cannot be computed");
    post({ fault, message });
  }
};

async function answer(ask: RowAsk): Promise<Float32Array | null> {
  if ("open" in ask) {
    const { device, threads, ortBase, graphs, file } = ask.open;
    const machine = await start(device, threads, ortBase);
    plan = await Plan.open(graphs, file, (graph) => Net.open(machine, graph));
    return null;
  }
  given = ask.given ?? given;
  return plan!.predict({ ...ask.row, given: given! });
}
