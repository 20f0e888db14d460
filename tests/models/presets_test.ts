import assert from "node:assert/strict";
import { checkModelConfig, checkObjectiveConfig, maskId } from "../../models/config.ts";
import { parameterCount } from "../../models/parameters.ts";
import { DISPUTES, preset, type PresetName, PRESETS, SOURCES } from "../../models/presets.ts";
import { UserError } from "../../ops/graph/errors.ts";

Deno.test("preset: every size and source is a valid configuration", () => {
  for (const name of PRESETS) {
    for (const source of SOURCES) {
      const { model, objective, tokenizer } = preset(name, source);
      checkModelConfig(model);
      checkObjectiveConfig(objective, model);
      assert.equal(tokenizer.vocabSize, maskId(model));
    }
  }
});

Deno.test("preset: follows the chosen source where they disagree", () => {
  const paper = preset("base", "paper"), code = preset("base", "code");
  assert.deepEqual([paper.objective.keepShare, code.objective.keepShare], [0, 0.1]);
  assert.deepEqual([paper.objective.weightedLmLoss, code.objective.weightedLmLoss], [false, true]);
  assert.deepEqual([paper.model.mlmHead, code.model.mlmHead], ["linear", "roberta"]);
  const large = (source: typeof SOURCES[number]) => {
    const { model, optimisation } = preset("large++", source);
    return [model.relativeBuckets, model.relativeMaxDistance, optimisation.peakLearningRate];
  };
  assert.deepEqual(large("paper"), [64, 128, 2e-4]);
  assert.deepEqual(large("code"), [128, 256, 1e-4]);
  assert.deepEqual(large("release"), [128, 128, 1e-4]);
  assert.equal(preset("base++", "code").model.share, "token_pos_norm");
  assert.equal(preset("base++", "paper").model.share, "token");
});

Deno.test("preset: holds the optimisation of Tables 5 and 6", () => {
  const base = preset("base", "paper"), large = preset("large++", "paper");
  assert.equal(base.optimisation.peakLearningRate, 4e-4);
  assert.deepEqual([base.optimisation.clipNorm, large.optimisation.clipNorm], [0, 2]);
  assert.equal(large.optimisation.updates, 1_335_000);
  assert.equal(large.optimisation.scheduleUpdates, 2_000_000);
  for (const name of ["base", "base++", "large++"] as const) {
    const { finetuning, optimisation } = preset(name, "paper");
    assert.equal(finetuning.peakLearningRate, optimisation.peakLearningRate / 10);
    assert.equal(finetuning.updates, 125_000);
    assert.equal(finetuning.targetLength, 256);
    assert.equal(finetuning.clipNorm, 0);
  }
});

Deno.test("preset: an unknown name or source is the user's mistake", () => {
  assert.throws(() => preset("huge" as PresetName), UserError);
  assert.throws(() => preset("base", "rumour" as "paper"), /expected one of paper, code, release/);
});

Deno.test("DISPUTES: settings name fields that exist", () => {
  const known = preset("base");
  for (const { item, settings } of DISPUTES) {
    for (const parts of Object.values(settings)) {
      for (const [part, fields] of Object.entries(parts)) {
        for (const field of Object.keys(fields)) {
          assert.ok(field in known[part as keyof typeof known], `${item}: ${part}.${field}`);
        }
      }
    }
  }
});

Deno.test("checkModelConfig: names the field, what is expected and what came", () => {
  const { model } = preset("tiny");
  const bad: [Partial<typeof model>, RegExp][] = [
    [{ heads: 3 }, /^heads: expected a divisor of 128, got 3$/],
    [{ vocabSize: 0 }, /^vocabSize: expected a positive integer, got 0$/],
    [{ sentinels: 573 }, /^sentinels: expected at most vocabSize - 4 = 572, got 573$/],
    [{ positionRows: 1025 }, /^positionRows: expected an integer of at least .* 1026, got 1025$/],
    [{ relativeBuckets: 30 }, /^relativeBuckets: expected a multiple of 4, got 30$/],
    [{ relativeMaxDistance: 8 }, /^relativeMaxDistance: /],
    [{ dropout: 1 }, /^dropout: expected a number in \[0, 1\), got 1$/],
    [{ dropout: NaN }, /^dropout: /],
    [{ share: "all" as "none" }, /^share: expected one of none, token, .*, got 'all'$/],
  ];
  for (const [change, message] of bad) {
    assert.throws(() => checkModelConfig({ ...model, ...change }), { name: "UserError", message });
  }
});

Deno.test("checkObjectiveConfig: names the field, what is expected and what came", () => {
  const { model, objective } = preset("tiny");
  const bad: [Partial<typeof objective>, RegExp][] = [
    [{ maskProbability: 1.5 }, /^maskProbability: expected a number in \[0, 1\], got 1.5$/],
    [{ keepShare: 0.5, randomShare: 0.6 }, /^randomShare: expected at most 0.5, got 0.6$/],
    [{ spanLength: 0 }, /^spanLength: /],
    [{ spanStdev: 1 }, /^spanStdev: expected 0 where spanLength is 1, got 1$/],
    [{ rtdWeight: -1 }, /^rtdWeight: /],
    [
      { maskedPositionsOnly: "all" as "none" },
      /^maskedPositionsOnly: expected one of lm, none, both/,
    ],
  ];
  for (const [change, message] of bad) {
    const check = () => checkObjectiveConfig({ ...objective, ...change }, model);
    assert.throws(check, { name: "UserError", message });
  }
});

Deno.test("parameterCount: equals the reference's to the last parameter", () => {
  const expected = {
    "base": [225_618_432, 592_897, 29_767_936, 255_979_265],
    "base++": [249_604_608, 592_897, 29_009_664, 279_207_169],
    "large++": [773_644_288, 1_052_673, 77_758_464, 852_455_425],
  };
  for (const [name, [main, rtd, aux, whole]] of Object.entries(expected)) {
    const { model } = preset(name as PresetName, "code");
    assert.equal(parameterCount(model, ["main"]), main);
    assert.equal(parameterCount(model, ["rtd"]), rtd);
    assert.equal(parameterCount(model, ["aux"]), aux);
    assert.equal(parameterCount(model), whole);
  }
});
