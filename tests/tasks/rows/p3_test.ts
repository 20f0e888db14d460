import assert from "node:assert/strict";
import {
  Float,
  groupScoreEval,
  isP3,
  isScoreEval,
  p3Example,
  type ReadRow,
} from "../../../tasks/rows/mod.ts";
import { userError } from "./rows_folder.ts";

Deno.test("P3: texts are stripped as Python does, answers may be missing", () => {
  const row = { inputs_pretokenized: "\n\x1c\ufeffIn\x85", targets_pretokenized: "\ntrolley " };
  assert.ok(isP3(row) && !isP3({ inputs_pretokenized: "" }));
  assert.ok(isScoreEval({ ...row, idx: [0, 0], is_correct: true }) && !isScoreEval(row));
  assert.deepEqual(p3Example(row), { input: "\ufeffIn", target: "trolley", choices: null });
  assert.deepEqual(p3Example({ ...row, answer_choices: [" a", "b"] }).choices, ["a", "b"]);
  assert.deepEqual(p3Example({ ...row, answer_choices: [] }).choices, null);
  assert.throws(() => p3Example({ ...row, answer_choices: [1] }), userError("answer_choices"));
  assert.throws(() => p3Example({ inputs_pretokenized: 1 }), userError("inputs_pretokenized"));
});

Deno.test("P3 score_eval: answers of a question come together, in whatever order they are stored", async () => {
  async function* rows(...all: [number, number, string, boolean][]): AsyncGenerator<ReadRow> {
    for (const [number, [question, answer, text, correct]] of all.entries()) {
      const row = {
        idx: [question, answer],
        inputs_pretokenized: `Q${question}\n`,
        targets_pretokenized: ` ${text}`,
        is_correct: correct,
        weight: new Float(1),
      };
      yield await Promise.resolve({ row, number, file: "v.jsonl" });
    }
  }
  const grouped = await Array.fromAsync(
    groupScoreEval(
      rows([1, 1, "d", false], [0, 0, "a", false], [1, 0, "c", false], [0, 1, "b", true]),
    ),
  );
  assert.deepEqual(grouped, [
    { input: "Q0", choices: ["a", "b"], gold: 1 },
    { input: "Q1", choices: ["c", "d"], gold: -1 },
  ]);
  const group = (...all: [number, number, string, boolean][]) =>
    Array.fromAsync(groupScoreEval(rows(...all)));
  await assert.rejects(group([0, 0, "a", true], [0, 0, "b", true]), userError("row 1:", "twice"));
  await assert.rejects(group([0, 1, "a", true]), userError("question 0 has no answer 0"));
  await assert.rejects(group([0, -1, "a", true]), userError("row 0:", '"idx"'));
});
