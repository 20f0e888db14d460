/**
 * What a model's reference code feeds it: with or without an end token, white space as it is or made single.
 *
 * @module
 */

import { isT5, type ModelConfig } from "../../models/mod.ts";
import { describe } from "../command/options.ts";

/** How inputs are made of text. */
export interface InputRule {
  /** Whether inputs end with `</s>`, as targets always do. */
  endToken: boolean;
  /** Whether every run of white space is made one space before the tokenizer sees it, as METRO does. */
  singleSpaces: boolean;
}

/** What a user can say about inputs. */
export const INPUT_FLAGS = describe({
  inputEndToken: {
    type: "choice",
    choices: ["auto", "yes", "no"] as const,
    default: "auto",
    help:
      "Whether inputs end with </s>. auto: as the family's reference code does (METRO and runs: yes; " +
      "T5 and T0 checkpoints: no), or as a finetuned run was trained.",
  },
});

/** A choice of the flag. */
export type InputEndToken = typeof INPUT_FLAGS.inputEndToken.choices[number];

/** What the rule depends on. */
export interface InputOrigin {
  /** The model. */
  config: ModelConfig;
  /** Its tokenizer's `<s>` and sentinels. */
  tokenizer: { readonly bos: number | undefined; readonly sentinels: number };
  /** Whether it is no run, but a model as those on the Hub are. */
  released: boolean;
  /** What a finetuning run's config says; those of older versions say nothing, and had an end token. */
  finetuned?: { inputEndToken?: InputEndToken };
  /** What the config.json of a converted model says: whether inputs have an end token. */
  said?: boolean;
}

/** The rule, if the user does not want another end. */
export function chosenRule(rule: InputRule, choice: InputEndToken = "auto"): InputRule {
  return choice === "auto" ? rule : { ...rule, endToken: choice === "yes" };
}

/**
 * How a model's inputs are made, as far as nobody says otherwise.
 *
 * T0's code gives T5's checkpoints inputs without an end token; METRO's code gives its models one, and so
 * do this toolkit's own runs, whatever they learn. METRO's data preparation makes all white space single,
 * and the vocabularies made here, which have sentinels, learned from such text; T5's tokenizer sees text
 * as it is.
 *
 * @example
 * ```ts
 * import { chosenRule, inputRule } from "./inputs.ts";
 * import { preset } from "../../models/mod.ts";
 * import assert from "node:assert/strict";
 *
 * const metro = { config: preset("base").model, tokenizer: { bos: 0, sentinels: 512 } };
 * assert.deepEqual(inputRule({ ...metro, released: true }), { endToken: true, singleSpaces: true });
 * assert.equal(chosenRule(inputRule({ ...metro, released: true }), "no").endToken, false);
 * ```
 */
export function inputRule(
  { config, tokenizer, released, finetuned, said }: InputOrigin,
): InputRule {
  const { bos, sentinels } = tokenizer, t5 = isT5(config);
  // A T5 with `<s>` in its vocabulary is one that puts `<s>` and `</s>` around its inputs.
  const family = finetuned
    ? finetuned.inputEndToken !== "no"
    : !(released && t5) || bos !== undefined;
  return {
    endToken: said ?? family,
    singleSpaces: !t5 || sentinels > 0,
  };
}
