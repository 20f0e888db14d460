// Who may write a folder: processes that hold its lock, die with it, or find what the dead have left.

import assert from "node:assert/strict";
import { join } from "node:path";
import { UserError } from "../../../ops/graph/errors.ts";
import { lock, type LockOptions } from "../../../tasks/files/lock.ts";

const OPTIONS = { what: "the folder", doing: "test", otherwise: "wait" };

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await work(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function refusal(path: string, options: Partial<LockOptions> = {}): Promise<string> {
  const error = await lock(path, { ...OPTIONS, ...options }).then(
    (held) => (held[Symbol.dispose](), undefined),
    (error) => error,
  );
  assert.ok(error instanceof UserError, `expected a UserError, got ${error?.stack}`);
  assert.ok(!error.message.includes("\n"));
  return error.message;
}

const names = (folder: string) => [...Deno.readDirSync(folder)].map(({ name }) => name).sort();

/** Another process that locks, says so, and holds the lock until it is killed. */
async function holderOf(path: string): Promise<Deno.ChildProcess> {
  const module = import.meta.resolve("../../../tasks/files/lock.ts");
  const code = `import { lock } from ${JSON.stringify(module)};
    const held = await lock(${JSON.stringify(path)}, ${JSON.stringify(OPTIONS)});
    console.log("held"); setInterval(() => held, 1e6);`;
  const process = new Deno.Command(Deno.execPath(), {
    args: ["run", "-q", "--no-prompt", "--allow-read", "--allow-write", "-"],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const writer = process.stdin.getWriter();
  await writer.write(new TextEncoder().encode(code));
  await writer.close();
  const reader = process.stdout.getReader();
  assert.equal(new TextDecoder().decode((await reader.read()).value), "held\n");
  await reader.cancel();
  return process;
}

Deno.test("another process's lock is refused, naming it, and ends with it however it dies", () =>
  inFolder(async (folder) => {
    const path = join(folder, "run.lock");
    const process = await holderOf(path);
    assert.match(
      await refusal(path),
      new RegExp(
        `^the folder: in use by process ${process.pid}\\b.* \\(test\\) since [\\d-]+ [\\d:]+ UTC; wait$`,
      ),
    );
    process.kill("SIGKILL");
    await process.status;
    assert.deepEqual(names(folder), ["run.lock"], "its file is left");
    {
      using _held = await lock(path, OPTIONS);
      assert.match(await refusal(path), new RegExp(`process ${Deno.pid}\\b`));
    }
    assert.deepEqual(names(folder), []);
  }));

Deno.test("a folder that was made for a lock goes with it, unless something came into it", () =>
  inFolder(async (folder) => {
    const path = join(folder, "a", "b", "run.lock");
    (await lock(path, OPTIONS))[Symbol.dispose]();
    assert.deepEqual(names(join(folder, "a")), []);
    {
      using held = await lock(path, OPTIONS);
      assert.ok(held.madeFolder);
      Deno.writeTextFileSync(join(folder, "a", "b", "file"), "");
    }
    assert.deepEqual(names(join(folder, "a", "b")), ["file"]);
  }));

Deno.test("a lock is not lost when its folder is removed and made again", () =>
  inFolder(async (folder) => {
    const path = join(folder, "run", "run.lock");
    const old = await lock(path, OPTIONS);
    Deno.removeSync(join(folder, "run"), { recursive: true });
    using _new = await lock(path, OPTIONS); // another folder of the same name
    old[Symbol.dispose]();
    assert.match(
      await refusal(path),
      /in use/,
      "the old holder does not remove the new one's file",
    );
  }));

Deno.test("what another machine's dead process has left is taken over after a while, and said", () =>
  inFolder(async (folder) => {
    const path = join(folder, "run.lock"), said: string[] = [];
    const holder = { doing: "pretrain", pid: 7, host: "other-host", since: "2020-01-02T03:04:05Z" };
    Deno.writeTextFileSync(path, JSON.stringify(holder));
    const patience = { touch: 4, silence: 20 }, say = (text: string) => void said.push(text);
    using _held = await lock(path, { ...OPTIONS, patience, say });
    assert.match(said.join(), /process 7 on other-host has left its lock behind; waiting/);
    assert.match(Deno.readTextFileSync(path), new RegExp(`"pid":${Deno.pid}`));
  }));

Deno.test("what another machine's process touches is refused, naming the machine", () =>
  inFolder(async (folder) => {
    const path = join(folder, "run.lock");
    const holder = { doing: "pretrain", pid: 7, host: "other-host", since: "2020-01-02T03:04:05Z" };
    Deno.writeTextFileSync(path, JSON.stringify(holder));
    let time = 1e9;
    const touching = setInterval(() => Deno.utimeSync(path, ++time, time), 5);
    // As long as it takes: the first touch ends the wait.
    const patience = { touch: 20, silence: 600_000 };
    assert.match(
      await refusal(path, { patience }),
      /in use by process 7 on other-host \(pretrain\) since 2020-01-02 03:04:05 UTC/,
    );
    clearInterval(touching);
  }));

Deno.test("a holder touches its file", () =>
  inFolder(async (folder) => {
    const path = join(folder, "run.lock"), patience = { touch: 5, silence: 1 };
    using _held = await lock(path, { ...OPTIONS, patience });
    Deno.utimeSync(path, 1, 1);
    while (Deno.statSync(path).mtime!.getTime() === 1000) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }));

Deno.test("a file that says nothing of use is nobody's, or another process's", () =>
  inFolder(async (folder) => {
    const path = join(folder, "run.lock");
    for (
      const text of [
        "",
        "{",
        "[]",
        '{"pid":"1"}',
        '{"doing":"\\u001b[2J","pid":1,"host":"","since":""}',
      ]
    ) {
      Deno.writeTextFileSync(path, text);
      using _held = await lock(path, OPTIONS);
      Deno.writeTextFileSync(path, text);
      assert.equal(await refusal(path), "the folder: in use by another process; wait");
    }
  }));

Deno.test("a job that starts again in its process keeps its lock; another job does not get it", () =>
  inFolder(async (folder) => {
    const path = join(folder, "run.lock");
    using _held = await lock(path, { ...OPTIONS, job: "one" });
    using _again = await lock(path, { ...OPTIONS, job: "one" });
    assert.match(await refusal(path, { job: "two" }), /in use/);
    assert.match(await refusal(path), /in use/);
  }));

Deno.test("where no file can be, the refusal is one line", () =>
  inFolder(async (folder) => {
    Deno.writeTextFileSync(join(folder, "file"), "");
    Deno.mkdirSync(join(folder, "run.lock"));
    for (const path of ["file/run.lock", "file/deeper/run.lock", "run.lock"]) {
      assert.match(
        await refusal(join(folder, path)),
        /^writing .*: (part of the path|expected a file)/,
      );
    }
  }));
