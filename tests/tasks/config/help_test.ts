// What `--help` prints as defaults, read off the page and typed back in, is the config that they come to.

import assert from "node:assert/strict";
import { preset, PRESETS } from "../../../models/mod.ts";
import { SOURCES } from "../../../models/presets.ts";
import { help, type HelpPage } from "../../../tasks/command/help.ts";
import { flagName, type Options, parseFlags } from "../../../tasks/command/options.ts";
import {
  FINETUNE_COMMAND,
  FINETUNE_CONFIG,
  type GivenFinetune,
  resolveFinetune,
} from "../../../tasks/config/finetune.ts";
import { finetuneDefaults, pretrainDefaults } from "../../../tasks/config/help_defaults.ts";
import {
  type GivenPretrain,
  PRETRAIN_COMMAND,
  PRETRAIN_CONFIG,
  resolvePretrain,
} from "../../../tasks/config/pretrain.ts";
import { PLAN_OPTIONS } from "../../../tasks/plan/plan.ts";
import { run } from "../../e2e/command.ts";

const OBJECTIVES = ["metro", "t5"] as const;
/** Set by the job or not at all: these have no default to print. */
const TEXT = ["text", "textWeights"], ROWS = ["data", "templates"];

/** Every flag of a page with what is said of it; `negated` where the flag turns off. */
function flagsOf(page: string): Map<string, { negated: boolean; text: string }> {
  const found = new Map<string, { negated: boolean; text: string }>();
  let last: { negated: boolean; text: string } | undefined;
  for (const line of page.split("\n")) {
    const head = line.match(/^ {2}(?:-h, )?--(no-)?([a-z0-9-]+)(?: [^\s]+)?(?: {2,}(.*))?$/);
    if (head) {
      const [, no, name, text = ""] = head;
      assert.ok(!found.has(name), `--${name} is there twice`);
      found.set(name, last = { negated: no !== undefined, text });
    } else if (/^ {10}/.test(line) && last) last.text = `${last.text} ${line.trim()}`.trim();
    else last = undefined;
  }
  return found;
}

/** The defaults that a page prints for these options, read as flags are. */
function printedDefaults(page: string, options: Options): Record<string, unknown> {
  const flags = flagsOf(page);
  const words = Object.entries(options).flatMap(([key, option]) => {
    const flag = flags.get(flagName(key));
    assert.ok(flag, `--${flagName(key)} is not on the page`);
    if (option.type === "boolean") return [`--${flagName(key)}=${flag.negated}`];
    const value = flag.text.match(/ Default: (\S.*)\.$/)?.[1];
    return value === undefined ? [] : [`--${flagName(key)}`, ...value.split(" ")];
  });
  return parseFlags(options, words);
}

function assertReadable(page: string): void {
  const commands = page.indexOf("\nExamples:");
  const lines = page.slice(0, commands < 0 ? undefined : commands).split("\n");
  for (const line of lines) assert.ok(line.length <= 100, line);
}

function without(object: object, keys: readonly string[]): Record<string, unknown> {
  return Object.fromEntries(Object.entries(object).filter(([key]) => !keys.includes(key)));
}

function only(object: object, options: Options): Record<string, unknown> {
  return Object.fromEntries(Object.entries(object).filter(([key]) => Object.hasOwn(options, key)));
}

const PAGE: HelpPage = { usage: "command [flags]", intro: "Does it." };
const PRETRAIN = { ...PRETRAIN_COMMAND, ...PRETRAIN_CONFIG };
const FINETUNE = { ...FINETUNE_COMMAND, ...FINETUNE_CONFIG };

/** Checks a page of pretraining against what training would use. */
function checkPretrain(page: string, chosen: GivenPretrain): void {
  const printed: GivenPretrain = printedDefaults(page, PRETRAIN_CONFIG);
  const config = resolvePretrain(chosen, []);
  const standard = { preset: "tiny", source: "code", objective: "metro" };
  assert.deepEqual(printed, { ...without(config, TEXT), ...standard });
  assert.deepEqual(resolvePretrain({ ...printed, ...chosen }, []), config);
  assertReadable(page);
}

for (const name of PRESETS) {
  Deno.test(`help of pretrain shows the defaults of ${name}, whatever the source and objective`, () => {
    for (const source of SOURCES) {
      for (const objective of OBJECTIVES) {
        const args = ["--preset", name, `--source=${source}`, "--objective", objective, "--help"];
        const page = help(PRETRAIN, { ...PAGE, ...pretrainDefaults(args) });
        checkPretrain(page, { preset: name, source, objective });
        const note = `preset ${name}, source ${source}, objective ${objective};`;
        assert.ok(page.replaceAll("\n", " ").includes(note));
      }
    }
  });

  Deno.test(`help of finetune shows the defaults for a run of ${name}, whatever the source`, () => {
    for (const source of SOURCES) {
      const args = ["--help", "--preset", name, "--source", source];
      const page = help(FINETUNE, { ...PAGE, ...finetuneDefaults(args) });
      const printed = printedDefaults(page, FINETUNE_CONFIG) as GivenFinetune;
      const resolve = (given: GivenFinetune) =>
        resolveFinetune(given, {
          ...{ from: "run", sampleData: "rows", sampleTemplates: "prompts" },
          model: { preset: name, source, config: preset(name, source).model },
        });
      const config = resolve({});
      assert.deepEqual(printed, without(only(config, FINETUNE_CONFIG), ROWS));
      assert.deepEqual(resolve(printed), config);
      assertReadable(page);
      assert.ok(page.replaceAll("\n", " ").includes(`a run of preset ${name}, source ${source}:`));
    }
  });
}

Deno.test("help without a choice, or with a mistyped one, shows the standard preset's", () => {
  for (const args of [["--help"], ["--preset", "tinny", "--help"], ["--preset", "--help"]]) {
    checkPretrain(help(PRETRAIN, { ...PAGE, ...pretrainDefaults(args) }), {});
  }
});

Deno.test("the commands themselves print the defaults of the preset that is named", async () => {
  const page = async (task: string, ...args: string[]) => {
    const { code, out, err } = await run(task, [...args, "--help"]);
    assert.equal(code, 0, err);
    return out.trimEnd();
  };
  checkPretrain(await page("pretrain"), {});
  const large = { preset: "large++", source: "paper", objective: "t5" } as const;
  const words = Object.entries(large).flatMap(([key, value]) => [`--${key}`, value]);
  checkPretrain(await page("pretrain", ...words), large);
  checkPretrain(await page("pretrain:mpi", "--preset=base"), { preset: "base" });

  const finetune = await page("finetune", "--preset", "small");
  assert.equal(printedDefaults(finetune, FINETUNE_CONFIG).peakLearningRate, 1e-4);

  for (const [args, name] of [[[], "base"], [["--preset", "tiny"], "tiny"]] as const) {
    const printed = printedDefaults(await page("plan", ...args), PLAN_OPTIONS);
    const config = resolvePretrain({ preset: name }, []);
    for (const key of ["updates", "batchTokens", "microBatch", "sequenceLength"] as const) {
      assert.equal(printed[key], config[key], key);
    }
    assert.equal(printed.preset, "base");
  }
});
