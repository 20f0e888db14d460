import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../../ops/graph/errors.ts";
import {
  type FigureKey,
  FIGURES,
  formatFigure,
  type MetricRecord,
  openMetrics,
  readMetrics,
} from "../../../tasks/reports/metrics.ts";
import { progressLine, startProgress } from "../../../tasks/reports/progress.ts";

async function withFile(work: (path: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "metrics-"));
  try {
    await work(join(folder, "metrics.jsonl"));
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function append(path: string, after: number, ...records: MetricRecord[]): Promise<void> {
  const metrics = await openMetrics(path, after);
  for (const record of records) await metrics.append(record);
  await metrics.close();
}

const train = (update: number, loss: number): MetricRecord => ({ kind: "train", update, loss });

Deno.test("on resume, lines past the checkpoint's update are dropped", () =>
  withFile(async (path) => {
    const heldout: MetricRecord = { kind: "heldout", update: 20, loss: 2.5 };
    await append(path, 0, train(10, 3), train(20, 2), heldout, train(30, 1));
    await append(path, 20, train(30, 1.5));
    assert.deepEqual(await readMetrics(path), [
      train(10, 3),
      train(20, 2),
      heldout,
      train(30, 1.5),
    ]);
    await append(path, 0);
    assert.deepEqual(await readMetrics(path), []);
  }));

Deno.test("a resumed file is byte for byte that of an uninterrupted run", () =>
  withFile(async (path) => {
    const records = [train(1, 0.1 + 0.2), train(2, 1e-7), train(3, 1 / 3)];
    await append(path, 0, ...records);
    const whole = await readFile(path, "utf8");
    await append(path, 1, ...records.slice(1));
    assert.equal(await readFile(path, "utf8"), whole);
  }));

Deno.test("a checkpoint's lines are those of its mark: what came after is dropped, an edit refused", () =>
  withFile(async (path) => {
    const metrics = await openMetrics(path, -1);
    await metrics.append(train(10, 3));
    await metrics.append({ kind: "heldout", update: 10, loss: 2.5 });
    const mark = await metrics.mark();
    const whole = await readFile(path, "utf8");
    // The update is the checkpoint's, but the line came after it.
    await metrics.append({ kind: "heldout", update: 10, loss: 2 });
    await metrics.append(train(20, 2));
    await metrics.close();
    const later = await readFile(path, "utf8");

    for (const text of [later, later.slice(0, -7), whole + "\0", whole]) {
      await writeFile(path, text);
      const again = await openMetrics(path, mark);
      assert.ok(!again.isLost);
      assert.equal(await readFile(path, "utf8"), whole);
      await again.append(train(20, 2));
      const next = await again.mark();
      await again.close();
      await (await openMetrics(path, next)).close();
    }
    const edits = [whole.replace("3", "4"), whole.slice(0, -1), whole.slice(1), "", "\n" + later];
    for (const text of edits) {
      await writeFile(path, text);
      await assert.rejects(openMetrics(path, mark), (error) => {
        assert.ok(error instanceof UserError);
        assert.match(
          error.message,
          /metrics\.jsonl: (was changed|expected at least).*; put back a copy/,
        );
        return true;
      });
      assert.equal(await readFile(path, "utf8"), text);
    }
  }));

Deno.test("metrics.jsonl that is gone is known to be; one that goes while it is written is an error", () =>
  withFile(async (path) => {
    const metrics = await openMetrics(path, -1);
    await metrics.append(train(10, 3));
    const mark = await metrics.mark();
    await rm(path);
    await assert.rejects(metrics.append(train(20, 2)), {
      name: "UserError",
      message: `${path}: is not there any more: its folder was moved or deleted`,
    });
    await metrics.close();
    const again = await openMetrics(path, mark);
    assert.ok(again.isLost);
    await again.close();
    const empty = await openMetrics(path, await again.mark().catch(() => -1));
    assert.ok(!empty.isLost);
    await empty.close();
  }));

Deno.test("a torn last line is passed over by readers and repaired on resume", () =>
  withFile(async (path) => {
    const whole = JSON.stringify(train(10, 3));
    for (const torn of ['{"kind":"tr', "", '{"kind":"train","update":20,"loss":2}']) {
      await writeFile(path, `${whole}\n${torn}`);
      const read = await readMetrics(path);
      assert.deepEqual(read[0], train(10, 3));
      await append(path, 20, train(30, 1));
      assert.deepEqual(await readMetrics(path), [...read, train(30, 1)]);
    }
  }));

Deno.test("a broken line elsewhere is named, and the file is left as it is", () =>
  withFile(async (path) => {
    const text = `${JSON.stringify(train(1, 3))}\noops\n${JSON.stringify(train(2, 3))}\n`;
    await writeFile(path, text);
    for (const work of [() => readMetrics(path), () => openMetrics(path, 0)]) {
      await assert.rejects(
        work,
        (error) => error instanceof UserError && /line 2: .* got 'oops'/.test(error.message),
      );
    }
    assert.equal(await readFile(path, "utf8"), text);
  }));

Deno.test("numbers that JSON cannot hold become null", () =>
  withFile(async (path) => {
    await append(path, 0, {
      kind: "train",
      update: 1,
      loss: 2,
      rtdPrecision: NaN,
      gradNorm: Infinity,
    });
    assert.equal(
      await readFile(path, "utf8"),
      '{"kind":"train","update":1,"loss":2,"rtdPrecision":null,"gradNorm":null}\n',
    );
    const [record] = await readMetrics(path);
    assert.deepEqual(record, { ...train(1, 2), rtdPrecision: null, gradNorm: null });
    assert.equal(
      progressLine(record, 9),
      "1/9  loss  2.000  prec      –",
    );
  }));

const METRO: MetricRecord = {
  kind: "train",
  update: 120,
  seconds: 61,
  tokensPerSecond: 12345.6,
  learningRate: 2e-4,
  loss: 9.1234,
  mlmLoss: 6.1,
  rtdLoss: 0.05,
  clmLoss: 5.12,
  mlmAccuracy: 0.123,
  rtdRecall: 0.4,
  rtdPrecision: 1,
  rtdAuc: 0.8124,
  clmAccuracyReplaced: 0.01,
  clmAccuracyOther: 0.345,
};

Deno.test("a progress line shows the record's own numbers, aligned", () => {
  assert.equal(
    progressLine(METRO, 1000),
    " 120/1000  loss  9.123  mlm  6.100  rtd  0.050  clm  5.120  mlm acc  12.3%  rtd rec  40.0%" +
      "  prec 100.0%  auc 0.812  clm acc repl   1.0%  other  34.5%  lr 2.00e-4  12,346 tok/s",
  );
  assert.equal(
    progressLine({ kind: "heldout", update: 7, loss: 10.5, accuracy: 0.5 }, 1000),
    "   7/1000  held-out  loss 10.500  acc  50.0%",
  );
});

Deno.test("what is no number is shown as a dash, whatever figure it is of", () => {
  for (const key of Object.keys(FIGURES) as FigureKey[]) {
    for (const none of [NaN, Infinity, -Infinity, null]) assert.equal(formatFigure(key, none), "–");
  }
  const nothing = Object.fromEntries(Object.keys(METRO).map((key) => [key, NaN]));
  const line = progressLine({ ...nothing, kind: "train", update: 1 }, 10);
  assert.doesNotMatch(line, /NaN|Infinity|null/);
  // A column keeps its place.
  assert.equal(line.length, progressLine({ ...METRO, update: 1 }, 10).length);
});

Deno.test("away from a terminal, progress is a line every few seconds and at the end", () => {
  const lines: string[] = [];
  const progress = startProgress(10, { isTTY: false, write: (text) => lines.push(text) });
  for (let update = 1; update <= 10; update++) {
    progress.show({ kind: "train", update, seconds: 2 * update, loss: 1 });
  }
  progress.note("saved");
  progress.stop();
  assert.deepEqual(lines.map((line) => line.trim().slice(0, 5)), [
    "1/10 ",
    "4/10 ",
    "7/10 ",
    "10/10",
    "saved",
  ]);
});
