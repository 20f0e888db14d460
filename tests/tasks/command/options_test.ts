import assert from "node:assert/strict";
import { UserError } from "../../../ops/graph/errors.ts";
import { help } from "../../../tasks/command/help.ts";
import { nearest } from "../../../tasks/command/nearest.ts";
import {
  defaults,
  describe,
  parseFlags,
  validate,
  type Values,
  wantsHelp,
} from "../../../tasks/command/options.ts";

const options = describe({
  preset: { type: "choice", choices: ["tiny", "base", "large++"], default: "tiny", help: "Size" },
  text: { type: "paths", group: "Data", help: "Text files or folders to learn from." },
  tokenizer: { type: "path", group: "Data", unit: "tokenizer.json", help: "A ready tokenizer." },
  updates: { type: "integer", min: 1, default: 100, group: "Training", help: "How many updates." },
  batchTokens: {
    type: "integer",
    min: 1,
    max: 1048576,
    default: 4096,
    unit: "tokens",
    group: "Training",
    help: "Tokens in an update, over all of its micro-batches.",
  },
  textWeights: { type: "numbers", above: 0, group: "Data", help: "Shares of the texts." },
  peakLearningRate: { type: "number", above: 0, group: "Training", help: "Reached after warm-up." },
  dropout: { type: "number", min: 0, below: 1, default: 0, group: "Training", help: "Rate." },
  resume: { type: "boolean", default: false, group: "Run", help: "Go on where the run stopped." },
  shuffle: {
    type: "boolean",
    default: true,
    group: "Run",
    help: "Take sequences in random order.",
  },
});

function failure(...args: string[]): string {
  try {
    parseFlags(options, args);
  } catch (error) {
    assert.ok(error instanceof UserError);
    return error.message;
  }
  throw new assert.AssertionError({ message: `accepted: ${args.join(" ")}` });
}

Deno.test("the config's type is inferred from the description", () => {
  const config: Values<typeof options> = {
    ...defaults(options),
    ...parseFlags(options, ["--preset", "base"]),
  };
  const preset: "tiny" | "base" | "large++" = config.preset;
  const updates: number = config.updates;
  const resume: boolean = config.resume;
  const text: readonly string[] | undefined = config.text;
  const weights: readonly number[] | undefined = config.textWeights;
  // @ts-expect-error: an option without a default may be absent
  const rate: number = config.peakLearningRate;
  assert.deepEqual([preset, updates, resume], ["base", 100, false]);
  assert.deepEqual([text, weights, rate], [undefined, undefined, undefined]);
});

Deno.test("flags are read in both spellings, lists with spaces or repeated", () => {
  assert.deepEqual(
    parseFlags(options, [
      ...["--text", "a", "b c", "--batch-tokens=512", "--peakLearningRate", "1e-4", "--text", "d"],
      ...["--resume", "--no-shuffle"],
    ]),
    {
      text: ["a", "b c", "d"],
      batchTokens: 512,
      peakLearningRate: 1e-4,
      resume: true,
      shuffle: false,
    },
  );
  assert.deepEqual(parseFlags(options, []), {});
  assert.deepEqual(parseFlags(options, ["--text=-odd-name", "--", "--more"]), {
    text: ["-odd-name", "--more"],
  });
  assert.deepEqual(parseFlags(options, ["--shuffle=false"]), { shuffle: false });
});

Deno.test("a list of numbers takes all words that follow, negative ones as well", () => {
  const weights = (...args: string[]) => parseFlags(options, args).textWeights;
  assert.deepEqual(weights("--text-weights", "3", "1"), [3, 1]);
  assert.deepEqual(weights("--textWeights=.5", "1e-3", "--resume", "--text-weights", "2"), [
    .5,
    1e-3,
    2,
  ]);
  const shift = { type: "numbers", help: "Shifts.", default: [0] } as const;
  const shifts = describe({ shift, updates: { type: "integer", help: "How many." } });
  assert.deepEqual(parseFlags(shifts, ["--shift", "1", "-1.5", "-2", "--updates", "-3"]), {
    shift: [1, -1.5, -2],
    updates: -3,
  });
  assert.match(
    help(shifts, { usage: "u", intro: "I." }),
    /--shift NUMBER\.\.\. +Shifts\. Default: 0\./,
  );
});

Deno.test("words without a flag go to the positional option", () => {
  const folders = { type: "paths", positional: true, help: "Folders." } as const;
  const step = describe({ folders, tolerance: { type: "number", help: "Largest error." } });
  assert.deepEqual(parseFlags(step, ["a", "--tolerance", "1e-3", "b"]), {
    folders: ["a", "b"],
    tolerance: 1e-3,
  });
  assert.match(help(step, { usage: "verify", intro: "Verifies." }), /^ {2}PATH\.\.\. +Folders\.$/m);
});

Deno.test("an unknown flag suggests the nearest one", () => {
  assert.equal(failure("--upadtes", "3"), "unknown flag --upadtes; did you mean --updates?");
  assert.equal(failure("--batch"), "unknown flag --batch; did you mean --batch-tokens?");
  assert.equal(failure("--no-resum"), "unknown flag --no-resum; did you mean --resume?");
  assert.equal(failure("-updates", "3"), "unknown flag -updates; did you mean --updates?");
  assert.equal(failure("--hepl"), "unknown flag --hepl; did you mean --help?");
  assert.equal(failure("--no-updates"), "unknown flag --no-updates; did you mean --updates?");
  assert.equal(failure("--constructor"), "unknown flag --constructor; --help lists what there is");
});

Deno.test("a value that does not fit says what was expected and what came", () => {
  assert.equal(
    failure("--updates", "many"),
    "--updates: expected an integer of at least 1, got 'many'",
  );
  assert.equal(failure("--updates", "0"), "--updates: expected an integer of at least 1, got 0");
  assert.equal(
    failure("--updates", "1.5"),
    "--updates: expected an integer of at least 1, got 1.5",
  );
  assert.equal(failure("--updates", "-3"), "--updates: expected an integer of at least 1, got -3");
  assert.equal(failure("--updates="), "--updates: expected an integer of at least 1, got ''");
  assert.equal(
    failure("--updates", "0x10"),
    "--updates: expected an integer of at least 1, got '0x10'",
  );
  assert.equal(
    failure("--batch-tokens", "9e9"),
    "--batch-tokens: expected an integer from 1 to 1048576, got 9000000000",
  );
  assert.equal(
    failure("--dropout", "1"),
    "--dropout: expected a number of at least 0 and below 1, got 1",
  );
  assert.equal(
    failure("--peakLearningRate=0"),
    "--peakLearningRate: expected a number above 0, got 0",
  );
  assert.equal(
    failure("--text-weights", "3", "-1"),
    "--text-weights: expected one or more numbers above 0, got [3,-1]",
  );
  assert.equal(
    failure("--text-weights", "3", "x"),
    '--text-weights: expected one or more numbers above 0, got [3,"x"]',
  );
  assert.equal(
    failure("--text-weights", "NaN"),
    '--text-weights: expected one or more numbers above 0, got ["NaN"]',
  );
  assert.equal(
    failure("--preset", "bse"),
    "--preset: expected one of tiny, base, large++, got 'bse'; did you mean base?",
  );
});

Deno.test("a forgotten, doubled or stray value is an error, never ignored", () => {
  assert.equal(
    failure("--tokenizer"),
    "--tokenizer: expected a tokenizer.json after it, got nothing",
  );
  assert.equal(
    failure("--tokenizer", "--resume"),
    "--tokenizer: expected a tokenizer.json after it, got the flag --resume; " +
      "if --resume is meant as the value, type --tokenizer=--resume",
  );
  assert.equal(failure("--text"), "--text: expected one or more paths after it, got nothing");
  assert.equal(failure("--text="), '--text: expected one or more paths, got [""]');
  assert.equal(failure("--text", "a", ""), '--text: expected one or more paths, got ["a",""]');
  assert.equal(
    failure("--text-weights", "--resume"),
    "--text-weights: expected one or more numbers above 0 after it, got the flag --resume; " +
      "if --resume is meant as the value, type --text-weights=--resume",
  );
  assert.equal(
    failure("--updates", "1", "--updates", "2"),
    "--updates: given more than once; give it once",
  );
  assert.equal(
    failure("base"),
    "unexpected word 'base': expected a flag such as --help",
  );
  assert.equal(
    failure("--resume", "yes"),
    "unexpected word 'yes': expected a flag such as --help",
  );
  assert.equal(failure("--resume=yes"), "--resume: is a switch and takes no value, got 'yes'");
});

Deno.test("validate checks a config file against the same description", () => {
  const check = (object: unknown) => () => validate(options, object, "run/config.json");
  assert.deepEqual(check({ preset: "base", text: ["a"] })(), { preset: "base", text: ["a"] });
  for (
    const [object, message] of [
      [{ presett: "base" }, 'unknown key "presett"; did you mean "preset"?'],
      [{ toString: 1 }, 'unknown key "toString"; --help lists what there is'],
      [{ updates: "3" }, "updates: expected an integer of at least 1, got '3'"],
      [{ updates: null }, "updates: expected an integer of at least 1, got null"],
      [{ text: "a" }, "text: expected one or more paths, got 'a'"],
      [{ text: [] }, "text: expected one or more paths, got []"],
      [{ textWeights: [1, 0] }, "textWeights: expected one or more numbers above 0, got [1,0]"],
      [{ textWeights: [] }, "textWeights: expected one or more numbers above 0, got []"],
      [{ textWeights: 1 }, "textWeights: expected one or more numbers above 0, got 1"],
      [{ resume: 1 }, "resume: expected true or false, got 1"],
      [{ preset: ["base"] }, 'preset: expected one of tiny, base, large++, got ["base"]'],
      [[1], "expected an object of options, got [1]"],
      [null, "expected an object of options, got null"],
    ] as const
  ) {
    assert.throws(check(object), new UserError(`run/config.json: ${message}`));
  }
});

Deno.test("a default outside its own bounds is a mistake of ours, with a stack", () => {
  assert.throws(
    () => describe({ updates: { type: "integer", min: 1, default: 0, help: "." } }),
    (error) => error instanceof Error && !(error instanceof UserError),
  );
});

Deno.test("help groups, wraps and shows defaults", () => {
  assert.ok(wantsHelp(["-h"]) && wantsHelp(["--oops", "--help"]) && !wantsHelp(["--run", "help"]));
  const page = help(options, {
    usage: "deno task pretrain --text PATH... [flags]",
    intro: "Pretrains METRO-T0 on plain text.",
    examples: [{ command: "deno task pretrain --text data", does: "A small model on the sample:" }],
  }, 72);
  assert.equal(
    page,
    `Pretrains METRO-T0 on plain text.

Usage: deno task pretrain --text PATH... [flags]

Options:
  --preset NAME                Size. One of tiny, base, large++.
                               Default: tiny.

Data:
  --text PATH...               Text files or folders to learn from.
  --tokenizer TOKENIZER.JSON   A ready tokenizer.
  --text-weights NUMBER...     Shares of the texts.

Training:
  --updates INTEGER            How many updates. Default: 100.
  --batch-tokens TOKENS        Tokens in an update, over all of its
                               micro-batches. Default: 4096.
  --peak-learning-rate NUMBER  Reached after warm-up.
  --dropout NUMBER             Rate. Default: 0.

Run:
  --resume                     Go on where the run stopped.
  --no-shuffle                 Take sequences in random order. On by
                               default; this flag turns it off.

Help:
  -h, --help                   Show this page.

Examples:
  A small model on the sample:
    deno task pretrain --text data`,
  );
});

Deno.test("nearest forgives swaps, case and hyphens, and does not guess wildly", () => {
  const words = ["micro-batch", "batch-tokens", "seed"];
  assert.equal(nearest("microbatch", words), "micro-batch");
  assert.equal(nearest("MicroBatch", words), "micro-batch");
  assert.equal(nearest("sede", words), "seed");
  assert.equal(nearest("x", words), undefined);
  assert.equal(nearest("run", words), undefined);
});
