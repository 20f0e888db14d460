import assert from "node:assert/strict";
import { UserError } from "../../../ops/graph/errors.ts";
import { RankLost, runWorkers, type WorkersJob } from "../../../tasks/parallel/workers.ts";
import type { ContextArgs, Seen } from "./context_rank.ts";
import type { FaultArgs } from "./faults_rank.ts";

const FAULTS = new URL("./faults_rank.ts", import.meta.url);
const CONTEXT = new URL("./context_rank.ts", import.meta.url);

/** Collects what is written. */
function log() {
  const written: string[] = [];
  return { written, write: (text: string) => written.push(text) };
}

function faulty(
  fault: FaultArgs["fault"],
  options: Partial<WorkersJob<FaultArgs>> & { rank?: number } = {},
): Promise<number> {
  const { rank = 1, ...rest } = options;
  const args = { fault, rank };
  return runWorkers({ module: FAULTS, args, size: 3, timeout: 60, output: log(), ...rest });
}

async function failure(job: Promise<unknown>): Promise<Error> {
  let failed: unknown;
  await job.catch((error) => failed = error);
  assert.ok(failed instanceof Error, "the job has failed");
  return failed;
}

Deno.test("gives what rank 0 returned, and writes all ranks' lines", async () => {
  const output = log();
  assert.equal(await faulty("none", { output }), 3);
  assert.deepEqual(output.written.sort(), ["[rank 1] sum 3\n", "[rank 2] sum 3\n", "sum 3\n"]);
});

Deno.test("a user's mistake stays one, and names the rank", async () => {
  const output = log();
  const error = await failure(faulty("userError", { retries: 3, output }));
  assert.ok(error instanceof UserError);
  assert.equal(error.message, "rank 1: --data: no such file");
  assert.deepEqual(output.written, [], "it is not tried again");
});

Deno.test("other errors keep their stack and their cause, and name the rank", async () => {
  const error = await failure(faulty("error", { rank: 0 }));
  assert.ok(!(error instanceof UserError));
  assert.equal(error.message, "rank 0: TypeError: the device is lost");
  assert.match(error.stack!, /^rank 0: TypeError: the device is lost\n.*faults_rank\.ts:\d+/);
  assert.match(error.stack!, /\[cause\]: Error: driver reset/);
  assert.equal((await failure(faulty("text"))).message, "rank 1: just text");
});

Deno.test("errors that nobody awaits are found", async () => {
  const rejection = await failure(faulty("unhandledRejection"));
  assert.match(rejection.stack!, /^rank 1: Error: nobody awaits this\n.*faults_rank\.ts/);
  const uncaught = await failure(faulty("uncaughtError"));
  assert.match(uncaught.stack!, /^rank 1: Error: thrown by a timer\n.*faults_rank\.ts/);
});

function inContext(ask: ContextArgs["ask"], job: Partial<WorkersJob<ContextArgs>> = {}) {
  const defaults = { module: CONTEXT, args: { ask }, size: 2, timeout: 60, output: log() };
  return runWorkers<ContextArgs, Seen>({ ...defaults, ...job });
}

Deno.test("only rank 0 has a terminal; all know how wide it is", async () => {
  const output = { ...log(), isTTY: true, columns: 71 };
  assert.deepEqual(await inContext("terminal", { output }), { isTTY: true, columns: 71 });
  assert.equal(
    output.written.join(""),
    `[rank 1] {"isTTY":false,"columns":71}\n[rank 1] and more\n`,
  );
});

Deno.test("ranks whose calls differ are told so", async () => {
  const others = {
    otherCall: "barrier",
    otherLength: "allReduce of 7 × 4 bytes",
    otherType: "allReduce of 8 × 8 bytes",
  } as const;
  for (const [fault, call] of Object.entries(others)) {
    const { message } = await failure(faulty(fault as FaultArgs["fault"]));
    assert.match(
      message,
      /^rank \d: the ranks' calls differ: .*allReduce of 8 × 4 bytes on rank \d/,
    );
    assert.ok(message.includes(`${call} on rank 1`), message);
  }
});

Deno.test("ranks that disappear or return too early are found, whatever the time limit", async () => {
  const messages = {
    close: "rank 1 ended before its work was done, during update 12",
    exit: "rank 1 ended before its work was done, during update 12",
    patientClose: "rank 1 ended before its work was done, during packing",
    patientExit: "rank 1 ended before its work was done, during packing",
    returnEarly: "rank 0 waits in allReduce (during update 12) for rank 1, which has returned",
  } as const;
  await Promise.all(
    Object.entries(messages).map(async ([fault, message]) => {
      const error = await failure(faulty(fault as FaultArgs["fault"]));
      assert.ok(error instanceof RankLost, error.stack);
      assert.equal(error.message, message);
    }),
  );
});

Deno.test("ranks that hang are found; those that wait, are patient or give signs are not", async () => {
  const limit = { size: 2, timeout: 2.5 };
  const message = "rank 1 gave no sign of life for 2.5 s during update 12";
  const hang = async (fault: FaultArgs["fault"]) => {
    const error = await failure(faulty(fault, limit));
    assert.ok(error instanceof RankLost, error.stack);
    assert.equal(error.message, message);
  };
  const draw = async () => {
    const output = { ...log(), isTTY: true };
    const error = await failure(inContext("hangWhileDrawing", { output, ...limit }));
    assert.equal(error.message, "rank 0 gave no sign of life for 2.5 s while it started");
    assert.ok(output.written.at(-1)!.includes("\x1b[?25h"), "the terminal has its cursor again");
  };
  const replace = async () => {
    const output = log();
    const retry = (args: FaultArgs) => ({ ...args, failures: 0 });
    assert.equal(await faulty("nativeWait", { retries: 1, retry, output, ...limit }), 2);
    const start = "starting again (1 of 1)\n";
    assert.equal(output.written[0], `${message}; ${start}`);
  };
  await Promise.all([
    hang("busyLoop"),
    hang("nativeWait"),
    hang("asyncHang"),
    draw(),
    replace(),
    faulty("patient", limit).then((sum) => assert.equal(sum, 2)),
    faulty("alive", limit).then((sum) => assert.equal(sum, 2)),
  ]);
});

Deno.test("starts again after failures, each time with arguments made from the last ones", async () => {
  const output = log();
  const asked: FaultArgs[] = [];
  const args: FaultArgs = { fault: "error", rank: 2, failures: 2 };
  const sum = await faulty("error", {
    output,
    args,
    retries: 3,
    retry(last) {
      asked.push(last);
      return { ...last, failures: last.failures! - 1 };
    },
  });
  assert.equal(sum, 3);
  assert.deepEqual(asked, [args, { ...args, failures: 1 }]);
  const news = "rank 2: TypeError: the device is lost; starting again";
  const [first, second, ...rest] = output.written;
  assert.deepEqual([first, second], [`${news} (1 of 3)\n`, `${news} (2 of 3)\n`]);
  assert.equal(rest.length, 3);
});

Deno.test("gives up after so many starts, and asks for no more arguments", async () => {
  const output = log();
  assert.match((await failure(faulty("error", { retries: 2, output }))).message, /^rank 1: Type/);
  assert.equal(output.written.length, 2);
  let asked = 0;
  const retry = (args: FaultArgs) => {
    asked++;
    return args;
  };
  assert.match((await failure(faulty("error", { retries: 1, retry }))).message, /^rank 1: Type/);
  assert.equal(asked, 1);
});

Deno.test("does not start again once the user wants it to stop", async () => {
  const controller = new AbortController();
  controller.abort();
  const { signal: interrupted } = controller;
  const output = log();
  await failure(faulty("error", { retries: 5, interrupted, output }));
  assert.deepEqual(output.written, []);
});

Deno.test("errors before a rank has begun", async () => {
  const module = new URL("data:text/javascript,throw new Error('the module is broken')");
  const broken = await failure(faulty("none", { module }));
  assert.match(broken.message, /^rank \d: .*the module is broken/);
  const args = { fault: "none", rank: 1, more: () => {} } as FaultArgs;
  assert.match((await failure(faulty("none", { args }))).name, /DataCloneError/);
});

Deno.test("a wish to stop reaches ranks that are busy and ranks that wait", async () => {
  const controller = new AbortController();
  const { signal: interrupted } = controller;
  const output = log();
  const write = (text: string) => {
    output.write(text);
    controller.abort();
  };
  assert.deepEqual(await inContext("interruption", { interrupted, output: { write } }), {
    sawInterruption: 2,
  });
});

Deno.test("rank 0 can draw a bar on the terminal", async () => {
  const output = { ...log(), isTTY: true, columns: 60 };
  await inContext("progress", { output });
  const text = output.written.join("");
  assert.match(text, /░ 5\/10/);
  assert.ok(text.startsWith("\x1b[?25l") && text.includes("\x1b[?25h"), "the cursor comes back");
});

Deno.test("what cannot be passed to this thread is an error that names the rank", async () => {
  const error = await failure(inContext("uncloneable"));
  assert.match(error.message, /^rank 0: DataCloneError: /);
});

Deno.test("a script ends after a failure, whatever its threads are doing", async () => {
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", new URL("./lost_job.ts", import.meta.url).pathname],
    signal: AbortSignal.timeout(30_000),
  }).output();
  const text = new TextDecoder().decode(stderr);
  assert.match(text, /^error: rank [01] gave no sign of life for 0\.5 s while it started\n$/);
  assert.equal(code, 1);
});
