import assert from "node:assert/strict";

const FROM = {
  cli: new URL("../../../tasks/command/cli.ts", import.meta.url).href,
  errors: new URL("../../../ops/graph/errors.ts", import.meta.url).href,
};

/** Runs a script around `main`, after writing it out as a module of its own. */
function start(body: string): Deno.ChildProcess {
  const script = `import { interruption, main } from "${FROM.cli}";
    import { UserError } from "${FROM.errors}";
    await main(async () => { ${body} });`;
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "--quiet", "--no-prompt", `data:text/typescript,${encodeURIComponent(script)}`],
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function ended(script: Deno.ChildProcess) {
  const { code, stderr } = await script.output();
  return { code, stderr: new TextDecoder().decode(stderr) };
}

/** Waits for the script's word on standard output that it is ready. */
async function ready(script: Deno.ChildProcess): Promise<void> {
  const reader = script.stdout.getReader();
  await reader.read();
  reader.releaseLock();
}

const LOOP = `
  const interrupted = interruption("saving a checkpoint");
  console.log("ready");
  while (!interrupted.aborted) await new Promise((wake) => setTimeout(wake, 5));`;

Deno.test("a user's mistake is one line, and exit code 1", async () => {
  assert.deepEqual(await ended(start(`throw new UserError("--seed: expected\\n an integer");`)), {
    code: 1,
    stderr: "error: --seed: expected an integer\n",
  });
});

Deno.test("a user's mistake shows no control characters of a name that it quotes", async () => {
  const { stderr } = await ended(
    start(String.raw`throw new UserError("no task \x1b[31m\u009b2J\u202e: try another");`),
  );
  assert.equal(stderr, "error: no task \\u{1b}[31m\\u{9b}2J\\u{202e}: try another\n");
});

Deno.test("a mistake of ours keeps its stack and its cause, and exit code 1", async () => {
  const { code, stderr } = await ended(
    start(`throw new Error("shapes differ", { cause: new RangeError("inner") });`),
  );
  assert.equal(code, 1);
  assert.match(stderr, /^Error: shapes differ\n +at [\s\S]*RangeError: inner\n +at /);
});

Deno.test("one Ctrl-C asks the job to stop, which it does with exit code 0", async () => {
  const script = start(LOOP);
  await ready(script);
  script.kill("SIGINT");
  const { code, stderr } = await ended(script);
  assert.equal(code, 0);
  assert.equal(
    stderr,
    "\nStopping: saving a checkpoint. Press Ctrl-C again to quit at once.\n",
  );
});

Deno.test("a second Ctrl-C ends the process at once", async () => {
  const script = start(`${LOOP}
    console.log("stopping");
    await new Promise((wake) => setTimeout(wake, 60_000));`);
  await ready(script);
  script.kill("SIGINT");
  await ready(script);
  script.kill("SIGINT");
  assert.equal((await ended(script)).code, 130);
});
