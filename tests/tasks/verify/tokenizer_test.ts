// `deno task verify tokenizer`: the golden ids of the released vocabularies (beside the repository;
// skipped elsewhere), and small vocabularies, right and wrong.

import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { UserError } from "../../../ops/graph/errors.ts";
import {
  TOKENIZER_COLUMNS,
  tokenizerFailures,
  tokenizerReportLines,
  verifyTokenizer,
} from "../../../tasks/verify/tokenizer.ts";
import { goldenPath, hasGolden } from "../../models/golden.ts";
import { modelBytes, type ModelParts } from "../tokenizer/sentencepiece_bytes.ts";

const VOCABULARIES = fileURLToPath(new URL("../../../../shared/data/metro_vocab", import.meta.url));
const ignore = !hasGolden;
if (ignore) console.log("verify tokenizer: the golden ids are not here, skipping them");

let scratch: string;
Deno.test.beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "verify-tokenizer-"));
});
Deno.test.afterAll(() => rm(scratch, { recursive: true }));

const PIECES: ModelParts["pieces"] = [
  ["[CLS]", 0, "control"],
  ["[PAD]", 0, "control"],
  ["[SEP]", 0, "control"],
  ["[UNK]", 0, "unknown"],
  ["▁", -3],
  ["a", -2],
  ["aa", -4],
  ["A", -5],
  ["!", -6],
  ["▁!", -4],
];
/** "aaa" is a aa, aa a or a a a, with one score. */
const LINES = [
  { text: "aaa!", pretokenized: "aaa !", pretokenized_lower: "aaa !", ids_64k: [4, 5, 6, 9] },
  { text: " A ", pretokenized: "A", pretokenized_lower: "a", ids_32k_lower: [4, 5] },
  { text: "Ab", ids_64k: [4, 7, 3], ids_64k_lower: [4, 5, 3] },
];

/** A file with these lines, and vocabularies for it. */
async function folderOf(lines: readonly unknown[]): Promise<{ file: string; vocab: string }> {
  const folder = await mkdtemp(join(scratch, "golden-"));
  const vocab = join(folder, "vocab");
  for (const name of ["vocab_32k", "vocab_64k"]) {
    await mkdir(join(vocab, name), { recursive: true });
    await writeFile(join(vocab, name, "sp.model"), modelBytes({ pieces: PIECES }));
    const dictionary = PIECES.slice(4).map(([piece]) => `${piece} 1\n`).join("");
    await writeFile(join(vocab, name, "dict.txt"), dictionary);
  }
  const file = join(folder, "lines.jsonl");
  const texts = lines.map((line) => typeof line === "string" ? line : JSON.stringify(line));
  await writeFile(file, texts.join("\n") + "\n");
  return { file, vocab };
}

function refused(run: Promise<unknown>, message: RegExp): Promise<void> {
  return assert.rejects(run, (error) => error instanceof UserError && message.test(error.message));
}

Deno.test({
  name: "verify tokenizer: all golden lines are equal in every column",
  ignore,
  async fn() {
    const report = await verifyTokenizer(goldenPath("tokenizer/metro.jsonl"), VOCABULARIES);
    assert.deepEqual(report.differences, []);
    for (const column of TOKENIZER_COLUMNS) {
      assert.deepEqual(report.columns[column], { compared: 202, equal: 202, ties: 0 }, column);
    }
    assert.equal(tokenizerFailures(report), 0);
  },
});

Deno.test("verify tokenizer: right lines pass; a column may be absent", async () => {
  const { file, vocab } = await folderOf(LINES);
  const report = await verifyTokenizer(file, vocab);
  assert.deepEqual(report.differences, []);
  assert.deepEqual(report.columns, {
    pretokenized: { compared: 2, equal: 2, ties: 0 },
    pretokenized_lower: { compared: 2, equal: 2, ties: 0 },
    ids_32k_lower: { compared: 1, equal: 1, ties: 0 },
    ids_64k: { compared: 2, equal: 2, ties: 0 },
    ids_64k_lower: { compared: 1, equal: 1, ties: 0 },
  });
  assert.match(tokenizerReportLines(report).at(-1)!, /^ok .*lines\.jsonl$/);
});

Deno.test("verify tokenizer: another segmentation with the same score is a tie, no other is", async () => {
  const given = (...ids: number[]) => ({ text: "aaa!", ids_64k: ids });
  const { file, vocab } = await folderOf([
    given(4, 6, 5, 9), // ties
    given(4, 5, 5, 5, 9), // ties
    given(4, 5, 5, 5, 4, 8), // one text, less probable
    given(4, 6, 6, 9), // another text
    given(4, 5, 5, 5), // cut
    given(4, 5, 5, 5, 99_999), // no id
    given(4, 5, 5, 3, 9), // unknown, which is any text
  ]);
  const report = await verifyTokenizer(file, vocab);
  assert.deepEqual(report.columns.ids_64k, { compared: 7, equal: 0, ties: 2 });
  assert.deepEqual(report.differences.map(({ line }) => line), [3, 4, 5, 6, 7]);
  assert.equal(tokenizerFailures(report), 5);
});

Deno.test("verify tokenizer: each thing that differs fails, and is named", async () => {
  const [first, second] = LINES;
  const { file, vocab } = await folderOf([
    { ...first, pretokenized: "aaa!", ids_64k: [4, 5, 5, 5, 4, 8] },
    { ...second, pretokenized_lower: "A", ids_32k_lower: [4, 7] },
  ]);
  const report = await verifyTokenizer(file, vocab);
  assert.deepEqual(report.differences.map(({ line, column }) => `${line} ${column}`), [
    "1 pretokenized",
    "2 pretokenized_lower",
    "2 ids_32k_lower",
    "1 ids_64k",
  ]);
  assert.equal(tokenizerFailures(report), 4);
  const lines = tokenizerReportLines(report);
  assert.ok(lines.includes("  line 1, ids_64k:"));
  assert.ok(lines.includes('    expected "4,5,5,5,4,8"'));
  assert.ok(lines.includes('    got      "4,5,6,9"'));
  assert.match(lines.at(-1)!, /^FAIL .*: 4 wrong$/);
});

Deno.test("verify tokenizer: missing and broken files are refused, with the line", async () => {
  const cases: [lines: unknown[], message: RegExp][] = [
    [[LINES[0], "{"], /lines\.jsonl:2: not JSON/],
    [[LINES[0], { text: "a" }], /lines\.jsonl:2: expected text, and texts or ids/],
    [[{ text: "a", ids_64k: ["5"] }], /lines\.jsonl:1: expected text, and texts or ids/],
    [[{ text: "a", pretokenized: [5] }], /lines\.jsonl:1: expected text, and texts or ids/],
    [[null], /lines\.jsonl:1: expected text, and texts or ids/],
    [[], /lines\.jsonl: holds no lines/],
  ];
  for (const [lines, message] of cases) {
    const { file, vocab } = await folderOf(lines);
    await refused(verifyTokenizer(file, vocab), message);
  }
  const { file, vocab } = await folderOf(LINES);
  await refused(verifyTokenizer(join(scratch, "none"), vocab), /none: cannot be read/);
  await refused(verifyTokenizer(file, scratch), /sp\.model: cannot be read/);
});

Deno.test("verify tokenizer: the command exits with 0 if all is equal, with 1 on a difference", async () => {
  const script = fileURLToPath(new URL("../../../scripts/verify.ts", import.meta.url));
  const run = async (...args: string[]) => {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "-q",
        "--no-prompt",
        "--allow-read",
        "--allow-env=LOG_TOKENS,LOG_STREAM,XDG_RUNTIME_DIR,DENO_WEBGPU_BACKEND",
        script,
        "tokenizer",
        ...args,
      ],
    }).output();
    return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
  };
  const right = await folderOf(LINES);
  assert.equal((await run(right.file, "--vocab", right.vocab)).code, 0);
  const wrong = await folderOf([{ ...LINES[0], ids_64k: [4] }]);
  const failed = await run(wrong.file, "--vocab", wrong.vocab);
  assert.equal(failed.code, 1);
  assert.match(failed.text, /line 1, ids_64k:/);
  const refusal = await run(right.file);
  assert.equal(refusal.code, 1);
  assert.match(refusal.text, /--vocab: expected a folder of vocabularies/);
});
