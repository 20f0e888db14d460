// A rank that makes random collective calls and checks every one; it tells how many bytes it sent.

import { joinGroup, type SharedGroup } from "../../../tasks/parallel/shared.ts";
import { serveRank } from "../../../tasks/parallel/worker.ts";
import { checkCollectives, type CollectivesPlan } from "./collectives.ts";

/** Which calls are made, in which group. */
export interface CollectivesArgs extends CollectivesPlan {
  shared: SharedGroup;
}

serveRank<CollectivesArgs>(async ({ shared, ...plan }, context) => {
  const group = joinGroup(shared, context.group.rank);
  await checkCollectives(group, plan);
  return group.bytesSent;
});
