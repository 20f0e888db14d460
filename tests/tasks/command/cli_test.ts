import assert from "node:assert/strict";

const FROM = {
  cli: new URL("../../../tasks/command/cli.ts", import.meta.url).href,
  interruption: new URL("../../../tasks/command/interruption.ts", import.meta.url).href,
  errors: new URL("../../../ops/graph/errors.ts", import.meta.url).href,
};

/** Runs a script around `main`, after writing it out as a module of its own. */
function start(body: string): Deno.ChildProcess {
  const script = `import { main } from "${FROM.cli}";
    import { interruption } from "${FROM.interruption}";
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
  await interrupted.listen();
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

const STOPPING = "\nStopping: saving a checkpoint. Press Ctrl-C again to quit at once.\n";

for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGUSR2", 140]] as const) {
  Deno.test(`${signal} asks the job to stop, which it does with exit code 0`, async () => {
    const script = start(`${LOOP}; console.error(interrupted.exitCode); Deno.exit(0);`);
    await ready(script);
    script.kill(signal);
    assert.deepEqual(await ended(script), { code: 0, stderr: `${STOPPING}${code}\n` });
  });

  Deno.test(`${signal} ends a process at once that has nothing to lose`, async () => {
    const script = start(`const interrupted = interruption("nothing");
      console.log("ready");
      for (;;);`);
    await ready(script);
    script.kill(signal);
    assert.equal((await ended(script)).code, code);
  });
}

/** Works without end, and lets nothing else of its thread happen. */
const BUSY = `
  const interrupted = interruption("saving a checkpoint");
  await interrupted.listen();
  console.log("ready");
  while (!interrupted.aborted);
  console.log("stopping");
  for (;;);`;

Deno.test("a busy process hears a signal, and a second Ctrl-C ends it", async () => {
  const script = start(BUSY);
  await ready(script);
  script.kill("SIGINT");
  await ready(script);
  // What one key press sends twice is one: so the next may have to be sent again.
  const again = setInterval(() => script.kill("SIGINT"), 50);
  const { code, stderr } = await ended(script);
  clearInterval(again);
  assert.deepEqual({ code, stderr }, { code: 130, stderr: STOPPING });
});

Deno.test("one key press that comes twice is one: a terminal tells a task and its child", async () => {
  const script = start(`${LOOP}
    await new Promise((wake) => setTimeout(wake, 50));
    console.log("saved");
    Deno.exit(0);`);
  await ready(script);
  for (let i = 0; i < 3; i++) script.kill("SIGINT");
  assert.deepEqual(await ended(script), { code: 0, stderr: STOPPING });
});

Deno.test("SIGTERM after SIGTERM does not end a job that is saving", async () => {
  const script = start(`${LOOP}
    console.log("stopping");
    await new Promise((wake) => setTimeout(wake, 400));
    Deno.exit(0);`);
  await ready(script);
  script.kill("SIGTERM");
  await ready(script);
  script.kill("SIGTERM");
  assert.deepEqual(await ended(script), { code: 0, stderr: STOPPING });
});
