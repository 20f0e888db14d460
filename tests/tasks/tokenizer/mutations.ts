/**
 * Mutations of tokenizer.json files of all kinds: a byte is damaged, or one value becomes another. What is
 * read then makes ids of its own rows and text again, within its limits; everything else ends in one line.
 *
 * By hand, for as many of each file as one likes: `deno run -A tests/tasks/tokenizer/mutations.ts COUNT`.
 */
import assert from "node:assert/strict";
import { parseJson } from "../../../models/formats/untrusted.ts";
import { Tokenizer, type TokenizerJson } from "../../../tasks/tokenizer/tokenizer.ts";
import { assertUserError, fuzzJson, type Outcome } from "../../fuzz.ts";

/** A tokenizer.json, and texts with the ids that Rust tokenizers 0.23.2 gave. */
export interface Recorded {
  /** The file. */
  json: TokenizerJson;
  /** The texts. */
  cases: [text: string, ids: number[]][];
}

/** Files of random settings. */
export async function recorded(): Promise<Recorded[]> {
  const file = new URL("recorded.jsonl", import.meta.url);
  return (await Deno.readTextFile(file)).trimEnd().split("\n").map((line) => JSON.parse(line));
}

/** What came of the mutations: `same` are those that gave the ids of the whole file. */
export interface Tally extends Outcome {
  /** Gave the same ids as before, of those that were read. */
  same: number;
}

/** Damages each of the files so many times. */
export async function mutate(count: number): Promise<Tally> {
  const tally: Tally = { read: 0, refused: 0, same: 0 };
  for (const { json, cases } of await recorded()) {
    const { read, refused } = await fuzzJson(json, count, (text) => {
      const tokenizer = new Tokenizer(parseJson(text) as TokenizerJson);
      let same = true;
      for (const [text, expected] of cases) {
        try {
          const ids = tokenizer.encode(text);
          assert.ok(ids.every((id) => id < tokenizer.rows));
          assert.equal(typeof tokenizer.decode(ids), "string");
          same &&= String(ids) === String(expected);
        } catch (error) {
          // Limits are reached by some texts only.
          assertUserError(error);
          same = false;
        }
      }
      if (same) tally.same++;
    });
    tally.read += read;
    tally.refused += refused;
  }
  return tally;
}

if (import.meta.main) console.log(await mutate(Number(Deno.args[0] ?? 100)));
