// Unigram segmentation: the best of all segmentations, SentencePiece's rounding and ties, words cached
// without a trace.

import assert from "node:assert/strict";
import { key, Random } from "../../../ops/graph/random.ts";
import { type ScoredPiece, Unigram } from "../../../tasks/tokenizer/unigram.ts";

/** Random words over few letters, so that many segmentations compete. */
function randomText(random: Random, words: number, letters = "ab"): string {
  return Array.from({ length: words }, () => {
    const length = random.below(9);
    return "▁" + Array.from({ length }, () => letters[random.below(letters.length)]).join("");
  }).join("");
}

/** A vocabulary of all strings of one to four letters that chance lets in. */
function randomPieces(random: Random, score: () => number): ScoredPiece[] {
  const pieces: ScoredPiece[] = [["<unk>", 0], ["▁", score()], ["a", score()], ["b", score()]];
  for (let size = 2; size <= 4; size++) {
    for (let code = 0; code < 2 ** size; code++) {
      const piece = code.toString(2).padStart(size, "0").replaceAll("0", "a").replaceAll("1", "b");
      if (random.uniform() < 0.6) pieces.push([piece, score()]);
      if (random.uniform() < 0.3) pieces.push(["▁" + piece, score()]);
    }
  }
  return pieces;
}

/** The score of the best segmentation, all of them tried. */
function bestScore(text: string, pieces: readonly ScoredPiece[]): number {
  if (text === "") return 0;
  const scores = pieces.slice(1).filter(([piece]) => text.startsWith(piece))
    .map(([piece, score]) => score + bestScore(text.slice(piece.length), pieces));
  return Math.max(...scores);
}

/** SentencePiece's search over a whole text, nothing cut and nothing cached. */
function searched(text: string, pieces: readonly ScoredPiece[], lattice: boolean): number[] {
  const ids = new Map(pieces.map(([piece], id) => [piece, id]));
  const best = new Float32Array(text.length + 1);
  const last: [start: number, id: number][] = [];
  for (let start = 0; start < text.length; start++) {
    for (let end = start + 1; end <= Math.min(text.length, start + 6); end++) {
      const id = ids.get(text.slice(start, end));
      if (id === undefined) continue;
      const sum = best[start] + Math.fround(pieces[id][1]);
      const score = lattice ? Math.fround(sum) : sum;
      if (last[end] && !(score > best[end])) continue;
      best[end] = score;
      last[end] = [start, id];
    }
  }
  const path: number[] = [];
  for (let end = text.length; end > 0; end = last[end][0]) path.unshift(last[end][1]);
  return path;
}

Deno.test("unigram: no segmentation is better than the one that is found", () => {
  const random = new Random(key(1));
  for (let round = 0; round < 200; round++) {
    const pieces = randomPieces(random, () => Math.fround(-1 - 9 * random.uniform()));
    const unigram = new Unigram({ pieces, unk: 0 });
    const text = randomText(random, 1);
    const ids = unigram.encode(text);
    assert.equal(Array.from(ids, (id) => pieces[id][0]).join(""), text);
    const score = Array.from(ids).reduce((sum, id) => sum + pieces[id][1], 0);
    assert.ok(Math.abs(score - bestScore(text, pieces)) < 1e-4, text);
  }
});

Deno.test("unigram: words from the cache are those of one search over the whole text", () => {
  const random = new Random(key(2));
  let depends = 0;
  for (let round = 0; round < 60; round++) {
    // Scores of equal length per letter: sums tie but for rounding, which depends on what precedes.
    const letter = -3 - random.uniform();
    const pieces = randomPieces(random, () => letter * (1 + random.below(3)));
    for (const lattice of [false, true]) {
      const unigram = new Unigram({ pieces, unk: 0, lattice });
      for (let line = 0; line < 10; line++) {
        const text = randomText(random, 60);
        assert.deepEqual([...unigram.encode(text)], searched(text, pieces, lattice));
        const alone = text.split(/(?=▁)/).flatMap((word) => searched(word, pieces, lattice));
        if (String(alone) !== String(searched(text, pieces, lattice))) depends++;
      }
    }
  }
  assert.ok(depends > 50, `only ${depends} texts depend on what precedes a word`);
});

Deno.test("unigram: unknown characters in a row are one id, surrogate pairs are one character", () => {
  const pieces = [["<unk>", 0], ["▁", -1], ["a", -2], ["😀b", -3]] as const;
  const unigram = new Unigram({ pieces, unk: 0 });
  assert.deepEqual([...unigram.encode("▁xyz▁a😁😀bx")], [1, 0, 1, 2, 0, 3, 0]);
  const noSpace = new Unigram({ pieces: [["<unk>", 0], ["a", -2]], unk: 0 });
  assert.deepEqual([...noSpace.encode("▁x▁xa▁")], [0, 1, 0]);
});

Deno.test("unigram: user-defined pieces are taken whole, unmatched ones never", () => {
  const pieces = [["<unk>", 0], ["▁", -1], ["a", -1], ["b", -1], ["abb", -9], ["ba", 0]] as const;
  const ids = (spec: object) => [...new Unigram({ pieces, unk: 0, ...spec }).encode("▁abba")];
  assert.deepEqual(ids({ unmatched: [5] }), [1, 2, 3, 3, 2]);
  assert.deepEqual(ids({ unmatched: [5], userDefined: [4] }), [1, 4, 2]);
});

Deno.test("unigram: a piece with a space inside crosses words unless every ▁ starts one", () => {
  const pieces = [["<unk>", 0], ["▁", -1], ["a", -1], ["a▁b", -1], ["b", -1]] as const;
  assert.deepEqual([...new Unigram({ pieces, unk: 0 }).encode("▁a▁b")], [1, 3]);
  assert.deepEqual([...new Unigram({ pieces, unk: 0, split: true }).encode("▁a▁b")], [1, 2, 1, 4]);
});

Deno.test("unigram: a long word is segmented like its parts", () => {
  const pieces = [["<unk>", 0], ["▁", -1], ["ab", -1], ["c", -2]] as const;
  const ids = new Unigram({ pieces, unk: 0 }).encode("▁" + "abc".repeat(100_000));
  assert.equal(ids.length, 200_001);
  assert.deepEqual([...ids.subarray(-4)], [2, 3, 2, 3]);
});
