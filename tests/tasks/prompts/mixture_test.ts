// Mixtures: caps, epoch windows, the order of examples, missing datasets; windows made ahead.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import {
  COUNTS,
  type ExampleWindow,
  WindowAhead,
  WindowMaker,
  type WindowSource,
} from "../../../tasks/prompts/windows.ts";
import {
  expandMixture,
  type MixtureDataset,
  MixtureOrder,
  resolveMixture,
} from "../../../tasks/prompts/mixture.ts";
import { preset } from "../../../models/mod.ts";
import { portionsOf } from "../../../tasks/train/pair_batches.ts";
import { Tokenizer } from "../../../tasks/tokenizer/tokenizer.ts";
import { trainTokenizer } from "../../../tasks/tokenizer/train_bpe.ts";

const TEMPLATES = `dataset: DATASET
templates:
  11111111-1111-1111-1111-111111111111: !Template
    answer_choices: bad ||| good
    id: 11111111-1111-1111-1111-111111111111
    jinja: '{{text}} Good or bad? ||| {{ answer_choices[label] }}'
    metadata: !TemplateMetadata {choices_in_prompt: true, metrics: [Accuracy], original_task: true}
    name: good or bad
    reference: ''
  22222222-2222-2222-2222-222222222222: !Template
    answer_choices: null
    id: 22222222-2222-2222-2222-222222222222
    jinja: 'Write. ||| {% if label == 1 %}{{text}}{% endif %}'
    metadata: !TemplateMetadata {choices_in_prompt: false, metrics: [BLEU], original_task: false}
    name: write
    reference: ''
`;

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "metro-mixture-"));
  try {
    await body(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function put(path: string, text: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, text);
}

async function putDataset(folder: string, dataset: string, rows: object[]): Promise<void> {
  const lines = rows.map((row) => JSON.stringify(row) + "\n").join("");
  await put(join(folder, "data", dataset, "train.jsonl"), lines);
  await put(join(folder, "templates", dataset, "templates.yaml"), TEMPLATES);
}

const rowsOf = (count: number) =>
  Array.from({ length: count }, (_, i) => ({ text: `text  number\n${i}`, label: i % 2 }));

const request = (folder: string, names: string[]) => ({
  names,
  data: join(folder, "data"),
  templates: join(folder, "templates"),
  rule: "metro" as const,
  allowMissing: false,
  cache: join(folder, "cache"),
});

/** A dataset without files, for the order alone. */
const dataset = (name: string, rows: number, templates: string[], cap: number): MixtureDataset => ({
  dataset: name,
  splits: [],
  rows,
  templates,
  cap,
});

Deno.test("an epoch holds every row of a small task once, and a cap's worth of a large one", () => {
  const datasets = [dataset("small", 7, ["a", "b"], 100), dataset("large", 50, ["c"], 20)];
  const order = new MixtureOrder({ datasets }, 3);
  assert.equal(order.size, 7 * 2 + 20);
  const epoch = (e: number) => Array.from({ length: order.size }, (_, i) => order.at(e, i));
  const of = (e: number, task: number) =>
    epoch(e).filter((x) => x.task === task).map((x) => x.row).toSorted((a, b) => a - b);
  for (const task of [0, 1]) assert.deepEqual(of(0, task), [0, 1, 2, 3, 4, 5, 6]);
  const windows = [0, 1, 2, 3, 4].map((e) => of(e, 2));
  for (const rows of windows) assert.equal(new Set(rows).size, 20);
  // Five windows of 20 go round 50 rows twice.
  const times = new Map<number, number>();
  for (const row of windows.flat()) times.set(row, (times.get(row) ?? 0) + 1);
  assert.equal(times.size, 50);
  assert.ok([...times.values()].every((n) => n === 2));
  assert.notDeepEqual(epoch(0), epoch(1));
  assert.deepEqual(
    epoch(1),
    Array.from({ length: order.size }, (_, i) => new MixtureOrder({ datasets }, 3).at(1, i)),
  );
});

Deno.test("a task's rows do not depend on the other datasets of the mixture", () => {
  const large = dataset("large", 50, ["c"], 20);
  const rows = (datasets: MixtureDataset[]) => {
    const order = new MixtureOrder({ datasets }, 3);
    const all = Array.from({ length: order.size }, (_, i) => order.at(0, i));
    return all.filter((x) => datasets[order.tasks[x.task].dataset] === large).map((x) => x.row)
      .toSorted((a, b) => a - b);
  };
  assert.deepEqual(rows([large]), rows([dataset("other", 9, ["x"], 9), large]));
});

Deno.test("names of mixtures and files stand for their datasets", async () => {
  await withFolder(async (folder) => {
    const file = join(folder, "mine.txt");
    await put(file, "imdb # films\n\ntrec\n");
    assert.deepEqual(expandMixture([file, "imdb"], () => []), ["imdb", "trec"]);
    assert.equal(expandMixture(["T0+", "T0"], () => []).length, 48);
    assert.deepEqual(expandMixture(["all"], () => ["b", "a"]), ["a", "b"]);
    assert.throws(() => expandMixture([join(folder, "no.txt")], () => []), /no such file/);
  });
});

Deno.test("missing datasets are listed, with the nearest name, or left out if allowed", async () => {
  await withFolder(async (folder) => {
    await putDataset(folder, "imdb", rowsOf(4));
    await put(join(folder, "data", "trec", "train.jsonl"), '{"text":"a"}\n');
    const names = ["imdb", "imbd", "trec"];
    await assert.rejects(resolveMixture(request(folder, names)), {
      name: "UserError",
      message:
        /^2 of 3 datasets of the mixture cannot be used: imbd \(no rows; did you mean imdb\?\); trec \(no templates\)/,
    });
    const mixture = await resolveMixture({ ...request(folder, names), allowMissing: true });
    assert.deepEqual(mixture.datasets.map((d) => d.dataset), ["imdb"]);
    assert.deepEqual(mixture.missing, ["imbd", "trec"]);
    assert.deepEqual(mixture.datasets[0].templates, ["good or bad", "write"]);
  });
});

async function sourceOf(folder: string, skipBad = false): Promise<WindowSource> {
  const tokenizer = await trainTokenizer(["text number good or bad write"], {
    vocabSize: 260,
    lowercase: true,
    sentinels: 8,
  });
  const mixture = await resolveMixture(request(folder, ["all"]));
  const { model } = preset("tiny"), inputEndToken = "auto" as const;
  const lengths = { sourceLength: 40, targetLength: 8 };
  return { mixture, model, inputEndToken, seed: 5, size: 6, tokenizer, ...lengths, skipBad };
}

/** The examples of a window as text. */
function textsOf(window: ExampleWindow, tokenizer: Tokenizer): string[] {
  let s = 0, t = 0;
  return [...window.sourceLengths].map((length, i) => {
    const source = window.sources.subarray(s, s += length);
    const target = window.targets.subarray(t, t += window.targetLengths[i]);
    return `${tokenizer.decode(source)} → ${tokenizer.decode(target)}`;
  });
}

Deno.test("windows hold inputs without an end token where the run has none", async () => {
  await withFolder(async (folder) => {
    await putDataset(folder, "imdb", rowsOf(9));
    const source = await sourceOf(folder), tokenizer = new Tokenizer(source.tokenizer);
    const [ended, open] = (["yes", "no"] as const).map((inputEndToken) => {
      const maker = new WindowMaker({ ...source, inputEndToken });
      const texts = textsOf(maker.make(0, 0), tokenizer);
      maker.close();
      return texts;
    });
    assert.deepEqual(open, ended.map((text) => text.replace("</s> →", " →")));
    assert.ok(ended.every((text) => text.includes("</s> →")));
  });
});

Deno.test("windows hold rendered examples; empty targets are dropped and long ones cut, and counted", async () => {
  await withFolder(async (folder) => {
    await putDataset(folder, "imdb", rowsOf(9));
    const source = await sourceOf(folder);
    const maker = new WindowMaker(source), tokenizer = new Tokenizer(source.tokenizer);
    const windows = [0, 1, 2].map((w) => maker.make(0, w));
    maker.close();
    const texts = windows.flatMap((w) => textsOf(w, tokenizer)).toSorted();
    const expected = rowsOf(9).flatMap((_, i) => [
      `<s> text number ${i} good or bad?</s> → ${i % 2 ? "good" : "bad"}</s>`,
      ...(i % 2 ? [`<s> write.</s> → text n</s>`] : []),
    ]);
    assert.deepEqual(texts, expected.toSorted());
    const total = (name: typeof COUNTS[number]) =>
      windows.reduce((sum, w) => sum + w.counts[COUNTS.indexOf(name)], 0);
    assert.deepEqual(
      [total("seen"), total("noTarget"), total("targetCut"), total("sourceCut")],
      [18, 5, 4, 0],
    );
  });
});

Deno.test("windows made ahead by workers equal those made here, whatever the number of workers", async () => {
  await withFolder(async (folder) => {
    await putDataset(folder, "imdb", rowsOf(9));
    const source = await sourceOf(folder);
    const maker = new WindowMaker(source);
    for (const threads of [1, 2]) {
      const ahead = new WindowAhead(source, threads);
      assert.equal(ahead.windows, 3);
      for (const epoch of [0, 1]) {
        for (const w of [0, 1, 2]) {
          assert.deepEqual(await ahead.get(epoch, w), maker.make(epoch, w));
        }
      }
      ahead.close();
    }
    maker.close();
  });
});

Deno.test("a field that no row has names dataset, row and field; with skipBad its examples are counted", async () => {
  await withFolder(async (folder) => {
    await putDataset(folder, "imdb", rowsOf(4).map(() => ({ text: "no label" })));
    const strict = new WindowMaker(await sourceOf(folder));
    assert.throws(() => strict.make(0, 0) && strict.make(0, 1), {
      name: "UserError",
      message:
        /^imdb train, row \d: no field 'label', which template '.*' reads; the row has text$/,
    });
    strict.close();
    const ahead = new WindowAhead(await sourceOf(folder), 1);
    await assert.rejects(async () => {
      await ahead.get(0, 0);
      await ahead.get(0, 1);
    }, { name: "UserError", message: /row \d: no field 'label'/ });
    ahead.close();
    const lenient = new WindowMaker(await sourceOf(folder, true));
    const windows = [0, 1].map((w) => lenient.make(0, w));
    lenient.close();
    assert.equal(windows.reduce((sum, w) => sum + w.counts[COUNTS.indexOf("bad")], 0), 8);
    assert.equal(windows.flatMap((w) => w.bad).length, 8);
  });
});

Deno.test("micro-batches hold every example once, each in the smallest shape that fits", () => {
  const sourceLengths = Uint32Array.from({ length: 100 }, (_, i) => 5 + i % 40);
  const targetLengths = Uint32Array.from({ length: 100 }, (_, i) => 2 + i % 11);
  const window = {
    sources: new Uint32Array(5000),
    sourceLengths,
    targets: new Uint32Array(2000),
    targetLengths,
    counts: new Uint32Array(COUNTS.length),
    bad: [],
  };
  const plans = portionsOf(window, {
    sources: [16, 32, 48],
    targets: [8, 16],
    microBatch: 128,
  });
  assert.deepEqual(
    plans.flatMap((p) => p.examples).toSorted((a, b) => a - b),
    [...sourceLengths.keys()],
  );
  for (const { shape, examples } of plans) {
    assert.equal(shape.rows, Math.floor(128 / shape.length));
    assert.ok(examples.length <= shape.rows);
    for (const i of examples) {
      assert.ok(sourceLengths[i] <= shape.length && sourceLengths[i] > shape.length - 16);
      assert.ok(targetLengths[i] <= shape.target && targetLengths[i] > shape.target - 8);
    }
  }
});
