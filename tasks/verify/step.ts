/**
 * Checks this engine against training steps of another implementation: the METRO objective with its
 * noise, then AdamW, by the very programs that training runs.
 *
 * How errors are measured (`error` of a {@link StepFigure}):
 *
 * - **Losses, gradient norms**: the difference, relative to the golden number.
 * - **Counts**: exact, or infinitely wrong.
 * - **Logits**: the largest difference at tokens (what stands at padding means nothing), relative to
 *   the tensor's largest magnitude.
 * - **Gradients**: the same, but relative to at least {@link GRADIENT_FLOOR} of the largest gradient
 *   of all tensors. Some gradients are zero but for rounding, such as those of key biases, which no
 *   softmax feels; there is nothing to be relative to.
 * - **Weights after the updates**: the same as logits. AdamW divides a gradient by its own size, so
 *   where the gradient is nothing but rounding the weight moves all the same, and no two
 *   implementations agree where to. So a single weight that is beyond the tolerance gets a hearing:
 *   its updates are repeated on the host, in float64, from this run's gradients as they are, and with
 *   one unit of float32 rounding of the update's largest gradient (2⁻²³ of it) added and subtracted.
 *   How far the results lie apart is taken off its difference. That is negligible where the gradient
 *   stands clear of the noise, and nothing where it is exactly 0. Weights that pass only thus are
 *   counted in the report.
 *
 * @module
 */

import { metroLogits } from "../../models/metro.ts";
import { metroInputs } from "../../models/mod.ts";
import { declareParameters } from "../../models/parameters.ts";
import type { MetroValues } from "../../models/metro_batch.ts";
import { SPECIAL } from "../../models/config.ts";
import { compile, type Device, type StateMemory, Workspace } from "../../ops/mod.ts";
import type { DeviceBuffer } from "../../ops/program/device.ts";
import { sizeOf } from "../../ops/graph/tensor.ts";
import { metroObjective, scalarsOf } from "../train/objective.ts";
import { GOLDEN_COUNTS, type GoldenUpdate, type StepFolder } from "./step_folder.ts";
import { Trainer, wholeUpdate } from "../train/trainer.ts";

/** A tensor's gradients are compared relative to at least this share of the largest one of all. */
const GRADIENT_FLOOR = 1e-4;

/** One unit of rounding of a float32, relative to it. */
const ROUNDING = 2 ** -23;

/** What is compared, in the order of the table. */
export const STEP_FIGURES = [
  "MLM loss",
  "RTD loss",
  "CLM loss",
  "total loss",
  "counts",
  "MLM logits",
  "RTD logits",
  "CLM logits",
  "gradients",
  "gradient norm",
  "weights",
] as const;

/** One number or tensor, compared. */
export interface StepFigure {
  /** What it is. */
  group: typeof STEP_FIGURES[number];
  /** Which one: an update, or the name of a tensor in the folder's files. */
  name: string;
  /** The error, see the top of this module; infinite where it is not a number. */
  error: number;
}

/** A folder, compared. */
export interface StepReport {
  /** Name of the folder. */
  name: string;
  /** What was compared, in the order of {@link STEP_FIGURES}. */
  figures: readonly StepFigure[];
  /** Updates made. */
  updates: number;
  /** Single weights that were compared. */
  weights: number;
  /** How many of them would be beyond the tolerance, were rounding not allowed for. */
  roundingOnly: number;
}

/** What AdamW makes of a gradient in one update. */
interface Applied {
  gradients: ReadonlyMap<string, Float32Array>;
  /** Factor of clipping. */
  clip: number;
  /** Rounding noise of the update's gradients. */
  noise: number;
}

/**
 * Repeats a folder's updates on a device and compares everything that it states.
 *
 * @param tolerance errors above it fail, see {@link stepFailures}
 *
 * @example
 * ```ts ignore
 * import { openDevice } from "../../ops/mod.ts";
 * import { readStepFolder } from "./step_folder.ts";
 * import { stepFailures, verifyStep } from "./step.ts";
 *
 * const device = await openDevice();
 * const report = await verifyStep(device, await readStepFolder("golden/tiny_lm"), 1e-3);
 * console.log(stepFailures(report, 1e-3));
 * ```
 */
export async function verifyStep(
  device: Device,
  folder: StepFolder,
  tolerance: number,
): Promise<StepReport> {
  const { model, rows, length, counts, learningRate } = folder;
  const objective = metroObjective(model, folder.objective, 0, { givenNoise: true });
  const trainer = new Trainer(device, model, objective, folder.adamw, 0);
  try {
    trainer.initialize((name) => folder.before[name]);
    const figures = await compareLogits(device, trainer, folder);
    const applied: Applied[] = [];
    for (const [update, golden] of folder.updates.entries()) {
      const inputs: Record<string, Uint32Array> = { ...folder.inputs, noise: golden.noise };
      const batch = { rows, length, inputs, counts: { ...counts }, tokens: counts.tokens };
      await trainer.update(wholeUpdate([batch]), { update, learningRate });
      const sums = await trainer.takeSums("train");
      const { loss: total, mlmLoss: mlm, clmLoss: clm, rtdLoss: rtd = 0 } = objective.figures(
        sums,
        batch.counts,
      );
      const { gradNorm, ...totals } = scalarsOf(sums);
      const got = { losses: { mlm, rtd, clm, total }, gradNorm };
      figures.push(...compareNumbers({ ...got, counts: countsOf(folder, totals) }, golden, update));
      const gradients = await readAll(device, trainer.gradients);
      if (update === 0) figures.push(...compareGradients(gradients, folder));
      const { clipNorm } = folder.adamw;
      applied.push({
        gradients,
        clip: clipNorm > 0 ? Math.min(1, clipNorm / (gradNorm + 1e-6)) : 1,
        noise: ROUNDING * Math.max(...Array.from(gradients.values(), largest)),
      });
    }
    const weights = compareWeights(
      await readAll(device, trainer.parameters),
      applied,
      folder,
      tolerance,
    );
    const order = ({ group }: StepFigure) => STEP_FIGURES.indexOf(group);
    return {
      name: folder.name,
      figures: [...figures, ...weights.figures].sort((a, b) => order(a) - order(b)),
      updates: folder.updates.length,
      weights: trainer.parameterCount,
      roundingOnly: weights.roundingOnly,
    };
  } finally {
    trainer.destroy();
  }
}

/**
 * What is beyond the tolerance, one line each; nothing if the folder passes.
 *
 * @example
 * ```ts
 * import { stepFailures } from "./step.ts";
 * import assert from "node:assert/strict";
 *
 * const figures = [{ group: "CLM loss", name: "update 2", error: 0.02 }] as const;
 * const report = { name: "tiny", figures, updates: 2, weights: 10, roundingOnly: 0 };
 * assert.deepEqual(stepFailures(report, 0.001), ["CLM loss, update 2: off by 2.0e-2, more than 0.001"]);
 * assert.deepEqual(stepFailures(report, 0.1), []);
 * ```
 */
export function stepFailures({ figures }: StepReport, tolerance: number): string[] {
  return figures.filter(({ error }) => error > tolerance).map(({ group, name, error }) =>
    error === Infinity && group === "counts"
      ? `${group}, ${name}`
      : `${group}, ${name}: off by ${scientific(error)}, more than ${tolerance}`
  );
}

/**
 * A report in words: a table with the largest error of each kind, a line for every failure, and
 * PASS or FAIL as the last line.
 *
 * @example
 * ```ts
 * import { stepReportLines } from "./step.ts";
 * import assert from "node:assert/strict";
 *
 * const figures = [{ group: "CLM loss", name: "update 2", error: 2e-7 }] as const;
 * const report = { name: "tiny", figures, updates: 2, weights: 10, roundingOnly: 0 };
 * const lines = stepReportLines(report, 0.001);
 * assert.equal(lines.at(-1), "PASS tiny: 1 figure within 0.001");
 * ```
 */
export function stepReportLines(report: StepReport, tolerance: number): string[] {
  const { name, figures, updates, weights, roundingOnly } = report;
  const table = [["figure", "largest error", "at"]];
  for (const group of STEP_FIGURES) {
    const worst = worstOf(figures.filter((figure) => figure.group === group));
    if (worst) {
      table.push([group, group === "counts" ? exact(worst) : scientific(worst.error), at(worst)]);
    }
  }
  const widths = [0, 1].map((column) => Math.max(...table.map((row) => row[column].length)) + 2);
  const failed = stepFailures(report, tolerance);
  const many = (n: number, what: string) => `${n} ${what}${n === 1 ? "" : "s"}`;
  return [
    `${name}: ${many(updates, "update")} of ${many(weights, "weight")}`,
    ...table.map(([group, error, at]) =>
      `  ${group.padEnd(widths[0])}${error.padEnd(widths[1])}${at}`.trimEnd()
    ),
    ...(roundingOnly > 0
      ? [`  ${many(roundingOnly, "weight")} beyond it by rounding alone, which AdamW amplifies`]
      : []),
    ...failed.map((line) => `  ${line}`),
    failed.length === 0
      ? `PASS ${name}: ${many(figures.length, "figure")} within ${tolerance}`
      : `FAIL ${name}: ${failed.length} of ${many(figures.length, "figure")} beyond ${tolerance}`,
  ];
}

function worstOf(figures: readonly StepFigure[]): StepFigure | undefined {
  let worst: StepFigure | undefined;
  for (const figure of figures) if (!worst || figure.error > worst.error) worst = figure;
  return worst;
}

function exact({ error }: StepFigure): string {
  return error === 0 ? "exact" : "wrong";
}

function at({ name, error }: StepFigure): string {
  return error === 0 ? "" : name;
}

function scientific(x: number): string {
  return x === 0 ? "0" : Number.isFinite(x) ? x.toExponential(1) : "infinity";
}

// --- comparing ---

/** Runs the three heads before anything is trained. */
async function compareLogits(
  device: Device,
  trainer: Trainer,
  folder: StepFolder,
): Promise<StepFigure[]> {
  const { model, objective, rows, length, logits: golden } = folder;
  const inputs = metroInputs(objective, rows, length, { givenNoise: true });
  const outputs = metroLogits(declareParameters(model), model, inputs, inputs.noise!, objective);
  const workspace = new Workspace(device);
  const program = compile(device, { name: "logits", outputs }, {
    workspace,
    state: trainer.parameters,
  });
  try {
    program.run({ inputs: { ...folder.inputs, noise: folder.updates[0].noise } });
    const tokens = indices(folder.inputs.tokens, (token) => token !== SPECIAL.pad);
    const slots = filledSlots(folder.inputs);
    const all = slots.map((_, i) => i);
    const written = objective.decoderTarget === "allTokens"
      ? [tokens, tokens]
      : [slots, slotsInFile(folder, golden.clm.length / model.vocabSize / rows)];
    const compareRows = async (head: "mlm" | "clm" | "rtd", width: number) => {
      const got = await program.read(head) as Float32Array;
      const [ours, theirs] = { mlm: [slots, all], clm: written, rtd: [tokens, tokens] }[head];
      const wanted = rowsOf(golden[head]!, theirs, width);
      return relative(rowsOf(got, ours, width), wanted, largest(wanted));
    };
    const { vocabSize } = model;
    const mlm = await compareRows("mlm", vocabSize), clm = await compareRows("clm", vocabSize);
    const figures: StepFigure[] = [
      { group: "MLM logits", name: "mlm_logits", error: mlm },
      { group: "CLM logits", name: "clm_logits", error: clm },
    ];
    if (golden.rtd) {
      const rtd = await compareRows("rtd", 1);
      figures.push({ group: "RTD logits", name: "rtd_logits", error: rtd });
    }
    return figures;
  } finally {
    program.destroy();
    workspace.destroy();
  }
}

/** The filled slots, where a file has fewer columns of them. */
function slotsInFile({ rows, inputs }: StepFolder, columns: number): number[] {
  const ours = inputs.positions.length / rows;
  return filledSlots(inputs).map((slot) => Math.floor(slot / ours) * columns + slot % ours);
}

/** Losses, counts and gradient norm of an update. */
function compareNumbers(
  got: Omit<GoldenUpdate, "noise">,
  golden: GoldenUpdate,
  update: number,
): StepFigure[] {
  const name = `update ${update + 1}`;
  const number = (group: StepFigure["group"], got: number, want: number): StepFigure => {
    return { group, name, error: relative([got], [want], Math.abs(want)) };
  };
  const { mlm, rtd, clm, total } = got.losses;
  return [
    number("MLM loss", mlm, golden.losses.mlm),
    number("RTD loss", rtd, golden.losses.rtd),
    number("CLM loss", clm, golden.losses.clm),
    number("total loss", total, golden.losses.total),
    number("gradient norm", got.gradNorm, golden.gradNorm),
    ...GOLDEN_COUNTS.map((count): StepFigure => {
      const [ours, theirs] = [got.counts[count], golden.counts[count]];
      const right = ours === theirs;
      const said = right ? "" : `: expected ${theirs}, got ${ours}`;
      return {
        group: "counts",
        name: `${count} of ${name}${said}`,
        error: right ? 0 : Infinity,
      };
    }),
  ];
}

function countsOf(folder: StepFolder, sums: Record<string, number>): GoldenUpdate["counts"] {
  const { objective: { maskedPositionsOnly }, counts } = folder;
  return {
    sample_size: maskedPositionsOnly === "none" ? counts.tokens : counts.selected,
    // Only what is selected is replaced, and that always counts in the CLM loss.
    replaced_total: sums.clmReplaced,
    rtd_replaced_correct: sums.rtdReplacedPredicted,
    clm_replaced_correct: sums.clmReplacedCorrect,
    mlm_correct: sums.mlmCorrect,
  };
}

function compareGradients(
  got: ReadonlyMap<string, Float32Array>,
  { gradients: golden, fileNames }: StepFolder,
): StepFigure[] {
  const floor = GRADIENT_FLOOR * Math.max(...Object.values(golden).map(largest));
  return Array.from(got, ([name, values]) => ({
    group: "gradients",
    name: fileNames.get(name)!,
    error: relative(values, golden[name], Math.max(largest(golden[name]), floor)),
  }));
}

function compareWeights(
  got: ReadonlyMap<string, Float32Array>,
  applied: readonly Applied[],
  folder: StepFolder,
  tolerance: number,
): { figures: StepFigure[]; roundingOnly: number } {
  let roundingOnly = 0;
  const figures = Array.from(got, ([name, values]): StepFigure => {
    const golden = folder.after[name], scale = largest(golden);
    const allowed = roundingEffect(applied, name, folder);
    let error = 0;
    for (const [i, want] of golden.entries()) {
      const difference = Math.abs(values[i] - want);
      if (ratio(difference, scale) <= tolerance) {
        error = Math.max(error, ratio(difference, scale));
        continue;
      }
      const unexplained = ratio(Math.max(0, difference - allowed(i)), scale);
      if (unexplained <= tolerance) roundingOnly++;
      error = Math.max(error, unexplained);
    }
    return { group: "weights", name: folder.fileNames.get(name)!, error };
  });
  return { figures, roundingOnly };
}

/**
 * How far the updates move a single weight of a tensor in another direction if its gradients are off
 * by rounding noise: AdamW as in `trainer.ts`, in float64, without the decay, which changes nothing
 * here.
 */
function roundingEffect(
  applied: readonly Applied[],
  name: string,
  { adamw, learningRate }: StepFolder,
): (i: number) => number {
  const { beta1, beta2, epsilon } = adamw;
  const updates = applied.map(({ gradients, clip, noise }, i) => ({
    gradient: gradients.get(name)!,
    clip,
    noise,
    stepSize: learningRate * Math.sqrt(1 - beta2 ** (i + 1)) / (1 - beta1 ** (i + 1)),
  }));
  const moved = (i: number, sign: number) => {
    let mean = 0, square = 0, sum = 0;
    for (const { gradient, clip, noise, stepSize } of updates) {
      const g = (gradient[i] + sign * noise) * clip;
      mean = beta1 * mean + (1 - beta1) * g;
      square = beta2 * square + (1 - beta2) * g * g;
      sum += stepSize * mean / (Math.sqrt(square) + epsilon);
    }
    return sum;
  };
  return (i) => {
    if (updates.every(({ gradient }) => gradient[i] === 0)) return 0;
    const asItIs = moved(i, 0);
    return Math.max(Math.abs(moved(i, 1) - asItIs), Math.abs(moved(i, -1) - asItIs));
  };
}

// --- arrays ---

/** All tensors of a memory, read slab by slab, since every read waits for the device. */
async function readAll(device: Device, memory: StateMemory): Promise<Map<string, Float32Array>> {
  const slabs = new Map<DeviceBuffer, ArrayBuffer>();
  for (const buffer of memory.buffers) slabs.set(buffer, await device.read(buffer, 0, buffer.size));
  return new Map(memory.names.map((name) => {
    const { buffer, offset } = memory.view(name);
    return [name, new Float32Array(slabs.get(buffer)!, offset, sizeOf(memory.shape(name)))];
  }));
}

/** The largest difference, relative to `scale`; infinite if it is not a number. */
function relative(got: ArrayLike<number>, want: ArrayLike<number>, scale: number): number {
  let error = 0;
  for (let i = 0; i < want.length; i++) {
    error = Math.max(error, ratio(Math.abs(got[i] - want[i]), scale));
  }
  return error;
}

function ratio(difference: number, scale: number): number {
  if (difference === 0) return 0;
  const error = difference / scale;
  return Number.isNaN(error) ? Infinity : error;
}

/** The largest magnitude. */
function largest(values: Float32Array): number {
  let most = 0;
  for (const x of values) most = Math.max(most, Math.abs(x));
  return most;
}

/** Some rows of a matrix, one after the other. */
function rowsOf(values: Float32Array, rows: readonly number[], width: number): Float32Array {
  const result = new Float32Array(rows.length * width);
  for (const [i, row] of rows.entries()) {
    result.set(values.subarray(row * width, (row + 1) * width), i * width);
  }
  return result;
}

function indices(values: Uint32Array, keep: (value: number) => boolean): number[] {
  return Array.from(values.keys()).filter((i) => keep(values[i]));
}

/** The slots that hold a selected position; in row-major order of the positions. */
function filledSlots({ positions, tokens }: MetroValues): number[] {
  return indices(positions, (position) => position < tokens.length);
}
