/** Saves checkpoints until it is killed: the victim of the test "killed at any moment". */
import { saveCheckpoint } from "../../../tasks/checkpoints/save.ts";
import { writeTensors } from "../../../tasks/checkpoints/tensors.ts";

const [run, start] = Deno.args;
const specs = ["a", "b", "c"].map((name) => ({ name, shape: [128, 64] }));

console.log("ready");
for (let update = Number(start);; update++) {
  const write = (path: string) =>
    writeTensors(path, specs, () => new Float32Array(8192).fill(update), { update: `${update}` });
  await saveCheckpoint(run, { "model.safetensors": write, "optimizer.safetensors": write });
  console.log(update);
}
