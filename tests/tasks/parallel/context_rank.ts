// A rank that looks at what it is given.

import { serveRank } from "../../../tasks/parallel/worker.ts";
import { startProgress } from "../../../tasks/reports/progress.ts";

/** What the ranks do. */
export interface ContextArgs {
  ask: "terminal" | "interruption" | "progress" | "hangWhileDrawing" | "uncloneable";
}

/** What rank 0 returns, by question. */
export type Seen = Record<string, unknown> | undefined;

const pause = (milliseconds: number) =>
  new Promise<void>((resolve) => setTimeout(resolve, milliseconds));

serveRank<ContextArgs>(async ({ ask }, { group, interrupted, output }) => {
  switch (ask) {
    case "terminal": {
      const { isTTY, columns } = output;
      const seen = { isTTY, columns };
      if (group.rank === 1) output.write(`${JSON.stringify(seen)}\nand more\n`);
      return seen;
    }
    case "interruption": {
      if (group.rank === 0) output.write("begun\n");
      // Rank 1 waits for rank 0, whose thread never gives its event loop a turn.
      while (group.rank === 0 && !interrupted.aborted) group.alive("looking");
      const seen = Float64Array.of(Number(interrupted.aborted));
      await group.barrier();
      await group.allReduce(seen.fill(Number(interrupted.aborted)));
      return { sawInterruption: seen[0] };
    }
    case "progress": {
      if (group.rank !== 0) return;
      const progress = startProgress(10, output);
      progress.show({ kind: "train", update: 5, seconds: 1, loss: 9.5 });
      await pause(600);
      progress.stop();
      return;
    }
    case "hangWhileDrawing": {
      if (group.rank === 0) {
        startProgress(10, output);
        for (const end = performance.now() + 6000; performance.now() < end;);
      }
      return await group.barrier();
    }
    case "uncloneable":
      return () => {};
  }
});
