/**
 * Examples of a mixture, rendered and tokenised ahead of the device by threads of their own.
 *
 * The order of a mixture is cut into windows of consecutive positions. A worker makes a whole window; the
 * next ones are under way while one is used, so that the device does not wait.
 *
 * @module
 */

import { UserError } from "../../ops/graph/errors.ts";
import { type Drop, encodeExample, renderExample } from "./examples.ts";
import { type Mixture, MixtureOrder } from "./mixture.ts";
import { openTemplates } from "./templates.ts";
import { openRows, type RowReader } from "../rows/mod.ts";
import { Tokenizer, type TokenizerJson } from "../tokenizer/tokenizer.ts";
import type { ModelConfig } from "../../models/mod.ts";
import type { FinetuneConfig } from "../config/finetune.ts";
import { type InputEndToken, type InputRule, inputRule } from "../config/inputs.ts";
import { joinArrays } from "../files/arrays.ts";
import { OrderedPool } from "../parallel/ordered_pool.ts";

/** What windows are made from. Plain data. */
export interface WindowSource {
  /** The mixture. */
  mixture: Mixture;
  /** Seed of the order and of the templates' random choices. */
  seed: number;
  /** Positions per window. */
  size: number;
  /** The tokenizer's `tokenizer.json`. */
  tokenizer: TokenizerJson;
  /** The model, of which it matters how its inputs are made. */
  model: ModelConfig;
  /** Whether inputs end with `</s>`. */
  inputEndToken: InputEndToken;
  /** Longest source. */
  sourceLength: number;
  /** Longest target. */
  targetLength: number;
  /** Count unusable rows instead of stopping at them. */
  skipBad: boolean;
}

/** Windows as a finetuning run's config wants them. */
export function windowSource(
  { seed, model, inputEndToken, sourceLength, targetLength, skipBad }: FinetuneConfig,
  mixture: Mixture,
  tokenizer: TokenizerJson,
  size: number,
): WindowSource {
  const lengths = { sourceLength, targetLength };
  return { mixture, seed, size, tokenizer, model, inputEndToken, ...lengths, skipBad };
}

/** What was met in a window, per dataset. */
export const COUNTS = [
  "seen",
  "parts",
  "noTarget",
  "noInput",
  "noChoice",
  "bad",
  "sourceCut",
  "targetCut",
] as const satisfies readonly (Drop | "seen" | "sourceCut" | "targetCut")[];

/** The examples of a window, dropped ones left out. */
export interface ExampleWindow {
  /** Ids of all sources, one after the other. */
  sources: Uint32Array<ArrayBuffer>;
  /** Length of each. */
  sourceLengths: Uint32Array<ArrayBuffer>;
  /** Ids of all targets. */
  targets: Uint32Array<ArrayBuffer>;
  /** Length of each. */
  targetLengths: Uint32Array<ArrayBuffer>;
  /** {@link COUNTS} of each dataset of the mixture, [datasets, counts]. */
  counts: Uint32Array<ArrayBuffer>;
  /** The first few unusable rows, in words. */
  bad: string[];
}

/** Unusable rows that are listed by name. */
const LISTED = 20;

/** Makes windows on the thread it is made on. */
export class WindowMaker {
  readonly #source: WindowSource;
  readonly #order: MixtureOrder;
  readonly #tokenizer: Tokenizer;
  readonly #rule: InputRule;
  readonly #templates: ReturnType<typeof openTemplates>;
  readonly #rows: (RowReader[] | undefined)[] = [];

  /** Opens templates and tokenizer; rows are opened when they are met. */
  constructor(source: WindowSource) {
    this.#source = source;
    this.#order = new MixtureOrder(source.mixture, source.seed);
    this.#tokenizer = new Tokenizer(source.tokenizer);
    const { model: config, inputEndToken } = source, tokenizer = this.#tokenizer;
    this.#rule = inputRule({ config, tokenizer, released: false, finetuned: { inputEndToken } });
    this.#templates = openTemplates(source.mixture.templates);
  }

  /**
   * Makes a window.
   *
   * @param epoch from 0
   * @param window from 0; the last one of an epoch may be short
   * @throws {UserError} for an unusable row, unless they are skipped
   */
  make(epoch: number, window: number): ExampleWindow {
    const { mixture, size, skipBad } = this.#source;
    const end = Math.min(this.#order.size, (window + 1) * size);
    const sources: Uint32Array[] = [], targets: Uint32Array[] = [];
    const counts = new Uint32Array(mixture.datasets.length * COUNTS.length);
    const bad: string[] = [];
    for (let position = window * size; position < end; position++) {
      const { task, row } = this.#order.at(epoch, position);
      const { dataset } = this.#order.tasks[task];
      const count = (what: typeof COUNTS[number]) =>
        counts[dataset * COUNTS.length + COUNTS.indexOf(what)]++;
      count("seen");
      let text: ReturnType<typeof renderExample>;
      try {
        text = this.#render(task, row);
      } catch (error) {
        if (!(error instanceof UserError && skipBad)) throw error;
        if (bad.length < LISTED) bad.push(error.message);
        text = "bad";
      }
      if (typeof text === "string") {
        count(text satisfies Drop);
        continue;
      }
      const { sourceLength, targetLength } = this.#source;
      const example = encodeExample(
        this.#tokenizer,
        text,
        sourceLength,
        targetLength,
        this.#rule,
      );
      if (example.sourceCut) count("sourceCut");
      if (example.targetCut) count("targetCut");
      sources.push(example.source);
      targets.push(example.target);
    }
    return {
      sources: joinArrays(Uint32Array, sources),
      sourceLengths: Uint32Array.from(sources, (ids) => ids.length),
      targets: joinArrays(Uint32Array, targets),
      targetLengths: Uint32Array.from(targets, (ids) => ids.length),
      counts,
      bad,
    };
  }

  /** Closes the rows' files. */
  close(): void {
    for (const readers of this.#rows) for (const reader of readers ?? []) reader.close();
  }

  #render(task: number, row: number) {
    const { mixture, seed } = this.#source;
    const { dataset: at, template } = this.#order.tasks[task];
    const { dataset, splits, prerendered } = mixture.datasets[at];
    const readers = this.#rows[at] ??= splits.map(openRows);
    let split = 0;
    while (row >= splits[split].count) row -= splits[split++].count;
    const place = { dataset, split: splits[split].split, row };
    const values = readers[split].read(row);
    const found = prerendered ? undefined : this.#templates.find(dataset, template);
    return renderExample(found, values, place, { rule: mixture.rule, seed });
  }
}

/** Which window. */
export interface WindowNumber {
  /** From 0. */
  epoch: number;
  /** From 0. */
  window: number;
}

/** Windows in their order, made ahead on worker threads. */
export class WindowAhead {
  /** Examples of one epoch, before drops. */
  readonly epochSize: number;
  /** Windows of one epoch. */
  readonly windows: number;
  readonly #threads: number;
  readonly #pool: OrderedPool<WindowSource, WindowNumber, ExampleWindow>;
  readonly #made = new Map<string, Promise<ExampleWindow>>();

  /** Starts the threads. */
  constructor(source: WindowSource, threads: number) {
    this.epochSize = new MixtureOrder(source.mixture, source.seed).size;
    this.windows = Math.ceil(this.epochSize / source.size);
    this.#threads = threads;
    const module = new URL("./window_worker.ts", import.meta.url);
    this.#pool = new OrderedPool(module, threads, "a data worker", source);
  }

  /** A window; the ones after it are begun. */
  async get(epoch: number, window: number): Promise<ExampleWindow> {
    for (let ahead = 0; ahead <= this.#threads; ahead++) {
      const at = window + ahead;
      this.#begin(epoch + Math.floor(at / this.windows), at % this.windows);
    }
    const id = `${epoch} ${window}`;
    const made = await this.#made.get(id)!;
    this.#made.delete(id);
    return made;
  }

  /** Ends the threads. */
  close(): void {
    this.#pool.close();
  }

  #begin(epoch: number, window: number): void {
    const id = `${epoch} ${window}`;
    if (!this.#made.has(id)) this.#made.set(id, this.#pool.ask({ epoch, window }));
  }
}
