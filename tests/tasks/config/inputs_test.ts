// How inputs are made, by what the model is.

import assert from "node:assert/strict";
import { preset } from "../../../models/mod.ts";
import { resolveFinetune } from "../../../tasks/config/finetune.ts";
import { chosenRule, type InputOrigin, inputRule } from "../../../tasks/config/inputs.ts";
import { T5 } from "../small_checkpoint.ts";

const METRO = preset("tiny").model;
const ours = { bos: 0, sentinels: 16 }, spiece = { bos: undefined, sentinels: 0 };
const codeT5 = { bos: 1, sentinels: 0 };

Deno.test("inputs: each family as its reference code has it", () => {
  const cases: [origin: InputOrigin, endToken: boolean, singleSpaces: boolean][] = [
    [{ config: METRO, tokenizer: ours, released: true }, true, true],
    [{ config: METRO, tokenizer: ours, released: false }, true, true],
    [{ config: T5, tokenizer: spiece, released: true }, false, false],
    [{ config: T5, tokenizer: codeT5, released: true }, true, false],
    // Our own run, and what it becomes when it is converted.
    [{ config: T5, tokenizer: ours, released: false }, true, true],
    [{ config: T5, tokenizer: ours, released: true }, true, true],
    // Finetuned: as the run says, which those of older versions do not.
    [{ config: T5, tokenizer: spiece, released: false, finetuned: {} }, true, false],
    ...(["yes", "no"] as const).map((inputEndToken): [InputOrigin, boolean, boolean] => [
      { config: T5, tokenizer: spiece, released: false, finetuned: { inputEndToken } },
      inputEndToken === "yes",
      false,
    ]),
  ];
  for (const [origin, endToken, singleSpaces] of cases) {
    assert.deepEqual(inputRule(origin), { endToken, singleSpaces }, JSON.stringify(origin));
    for (const choice of ["yes", "no"] as const) {
      assert.equal(chosenRule(inputRule(origin), choice).endToken, choice === "yes");
    }
  }
});

Deno.test("inputs: a finetuning run remembers what its model's family does, or what was said", () => {
  const remembered = (endToken: boolean, inputEndToken?: "auto" | "yes" | "no") =>
    resolveFinetune({ inputEndToken }, {
      ...{ from: "a", sampleData: "", sampleTemplates: "" },
      model: {
        ...preset("tiny"),
        preset: "tiny",
        source: "code",
        config: METRO,
        inputs: {
          endToken,
          singleSpaces: true,
        },
      },
    }).inputEndToken;
  assert.deepEqual([true, false].map((end) => remembered(end)), ["yes", "no"]);
  assert.deepEqual([true, false].map((end) => remembered(end, "auto")), ["yes", "no"]);
  assert.deepEqual([true, false].map((end) => remembered(end, "no")), ["no", "no"]);
  assert.deepEqual([true, false].map((end) => remembered(end, "yes")), ["yes", "yes"]);
});
