// A script with a rank that hangs in a native call for longer than anybody would wait.

import { main } from "../../../tasks/command/cli.ts";
import { runWorkers } from "../../../tasks/parallel/workers.ts";

const code = `
  import { serveRank } from "${import.meta.resolve("../../../tasks/parallel/worker.ts")}";
  serveRank(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0));`;

await main(async () => {
  await runWorkers({
    module: new URL(`data:text/javascript,${encodeURIComponent(code)}`),
    args: {},
    size: 2,
    timeout: 0.5,
    output: { write: console.log },
  });
});
