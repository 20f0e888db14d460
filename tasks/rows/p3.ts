/**
 * P3, the prompted examples that T0's authors published: rows that are rendered already.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { repr } from "../jinja/python.ts";
import { shown } from "../../models/formats/untrusted.ts";
import type { ReadRow } from "./stream.ts";
import type { Row } from "./row.ts";

/** A rendered example. */
export interface P3Example {
  /** What the model reads. */
  input: string;
  /** What it shall write. */
  target: string;
  /** The answers to choose from; null where the template has none. */
  choices: string[] | null;
}

/** A rendered question with all its answers, for rank classification. */
export interface ScoredExample {
  /** What the model reads. */
  input: string;
  /** The answers, in their order. */
  choices: string[];
  /** The number of the first correct answer, from 0; -1 if none is. */
  gold: number;
}

/**
 * Whether a row is rendered already.
 *
 * @example
 * ```ts
 * import { isP3 } from "./p3.ts";
 * import assert from "node:assert/strict";
 *
 * assert.ok(isP3({ inputs_pretokenized: "1 + 1 =", targets_pretokenized: "2" }));
 * assert.ok(!isP3({ premise: "It rains.", label: 0 }));
 * ```
 */
export function isP3(row: Row): boolean {
  return Object.hasOwn(row, "inputs_pretokenized") && Object.hasOwn(row, "targets_pretokenized");
}

/** Whether a row is one answer of several to the same question, as in the `*_score_eval` sets. */
export function isScoreEval(row: Row): boolean {
  return isP3(row) && Object.hasOwn(row, "idx") && Object.hasOwn(row, "is_correct");
}

/**
 * The example in a row of P3. Its texts were stored before templates' output was stripped, so they are
 * stripped here, as Python does it.
 *
 * @throws {UserError} a text is missing or is none
 *
 * @example
 * ```ts
 * import { p3Example } from "./p3.ts";
 * import assert from "node:assert/strict";
 *
 * const row = { inputs_pretokenized: "1 + 1 = ", targets_pretokenized: "\n2", answer_choices: null };
 * assert.deepEqual(p3Example(row), { input: "1 + 1 =", target: "2", choices: null });
 * ```
 */
export function p3Example(row: Row): P3Example {
  const input = text(row, "inputs_pretokenized");
  const target = text(row, "targets_pretokenized");
  const choices = row.answer_choices ?? [];
  if (!Array.isArray(choices) || choices.some((choice) => typeof choice !== "string")) {
    throw new UserError('a P3 row: expected "answer_choices" to be a list of strings');
  }
  return { input, target, choices: choices.length > 0 ? choices.map(strip) : null };
}

/**
 * Puts the answers to each question together: the `*_score_eval` sets have one row for each answer,
 * with `idx: [question, answer]`. The rows may come in any order, as the shards they were written to;
 * so all of the split is in memory, the questions once. Yields in the order of the questions.
 *
 * @throws {UserError} naming file and row: not such a row, an answer that is there twice or not at all
 *
 * @example
 * ```ts
 * import { groupScoreEval } from "./p3.ts";
 * import type { ReadRow } from "./stream.ts";
 * import assert from "node:assert/strict";
 *
 * async function* rows(): AsyncGenerator<ReadRow> {
 *   for (const [i, answer] of ["yes", "no"].entries()) {
 *     const row = { idx: [0, i], inputs_pretokenized: "Wet?", targets_pretokenized: answer };
 *     yield { row: { ...row, is_correct: i === 0 }, number: i, file: "validation.jsonl" };
 *   }
 * }
 * const [example] = await Array.fromAsync(groupScoreEval(rows()));
 * assert.deepEqual(example, { input: "Wet?", choices: ["yes", "no"], gold: 0 });
 * ```
 */
export async function* groupScoreEval(rows: AsyncIterable<ReadRow>): AsyncGenerator<ScoredExample> {
  const questions = new Map<number, Question>();
  for await (const { row, number, file } of rows) {
    const place = `${file}, row ${number}`;
    try {
      addAnswer(questions, row, place);
    } catch (error) {
      throw error instanceof UserError ? new UserError(`${place}: ${error.message}`) : error;
    }
  }
  for (const [number, question] of [...questions].sort(([a], [b]) => a - b)) {
    const choices: string[] = [];
    let gold = -1;
    for (let i = 0; i < question.size; i++) {
      const answer = question.answers[i];
      if (!answer) throw new UserError(`${question.place}: question ${number} has no answer ${i}`);
      choices.push(answer.text);
      if (answer.correct && gold < 0) gold = i;
    }
    yield { input: question.input, choices, gold };
  }
}

interface Question {
  input: string;
  /** By number; sparse until all are there. */
  answers: { text: string; correct: boolean }[];
  /** One more than the largest number of an answer. */
  size: number;
  /** Where its first row is. */
  place: string;
}

function addAnswer(questions: Map<number, Question>, row: Row, place: string): void {
  const idx = row.idx;
  if (!Array.isArray(idx) || idx.length !== 2 || !idx.every(isIndex)) {
    throw new UserError(`expected "idx" to be [question, answer], got ${shown(repr(idx ?? null))}`);
  }
  if (typeof row.is_correct !== "boolean") {
    throw new UserError(`expected "is_correct" to be true or false`);
  }
  const [number, i] = idx as [number, number];
  const { input, target } = p3Example(row);
  let question = questions.get(number);
  if (!question) questions.set(number, question = { input, answers: [], size: 0, place });
  if (question.input !== input) {
    throw new UserError(`question ${number} has another text here than in ${question.place}`);
  }
  if (question.answers[i]) throw new UserError(`answer ${i} to question ${number} is there twice`);
  question.answers[i] = { text: target, correct: row.is_correct };
  question.size = Math.max(question.size, i + 1);
}

/** Answers are few; a wild number must not become a huge array. */
function isIndex(value: unknown, position: number): boolean {
  const limit = position === 1 ? 10_000 : Number.MAX_SAFE_INTEGER;
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < limit;
}

function text(row: Row, field: string): string {
  const value = row[field];
  if (typeof value === "string") return strip(value);
  throw new UserError(`a P3 row: expected "${field}" to be a string`);
}

// Python's `str.strip` also takes U+001C to U+001F and U+0085, and leaves U+FEFF.
const BLANK = "[\\t-\\r\\x1c- \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]";
const FIRST = new RegExp(`^${BLANK}+`);
const ONE = new RegExp(BLANK);

function strip(value: string): string {
  let end = value.length; // `+$` would take quadratic time on long runs of blanks inside the text
  while (end > 0 && ONE.test(value[end - 1])) end--;
  return value.slice(0, end).replace(FIRST, "");
}
