/** A group whose ranks are asynchronous functions of one thread: what it takes to save and to restore. */
import { alone, type Communicator, GroupEnded } from "../../tasks/parallel/communicator.ts";

/**
 * Runs all ranks of a group. When one fails, the others' waiting ends, as a supervisor would have it.
 *
 * @returns what each rank returned
 * @throws what the first rank that failed threw
 */
export async function runRanks<T>(
  size: number,
  work: (group: Communicator) => Promise<T>,
): Promise<T[]> {
  let arrived = 0, all = Promise.withResolvers<void>(), sent: Uint8Array = new Uint8Array();
  const failed = Promise.withResolvers<never>();
  failed.promise.catch(() => {});
  const barrier = async () => {
    const { promise, resolve } = all;
    if (++arrived === size) {
      arrived = 0;
      all = Promise.withResolvers();
      resolve();
    }
    await Promise.race([promise, failed.promise]);
  };
  const unused = () => Promise.reject(new Error("saving and restoring add nothing up"));
  let first: { error: unknown } | undefined;
  const results = await Promise.allSettled(Array.from({ length: size }, async (_, rank) => {
    try {
      return await work({
        ...alone(),
        ...{ rank, size, barrier },
        ...{ allReduce: unused, reduceScatter: unused, allGather: unused },
        async broadcast(values, root = 0) {
          if (rank === root) sent = values;
          await barrier();
          values.set(sent);
          await barrier();
        },
      });
    } catch (error) {
      first ??= { error };
      failed.reject(new GroupEnded("another rank failed"));
      throw error;
    }
  }));
  if (first) throw first.error;
  return results.map((result) => (result as PromiseFulfilledResult<Awaited<T>>).value);
}
