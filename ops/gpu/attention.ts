/**
 * Fused scaled-dot-product attention, forward and backward, with key mask, causal mask, relative
 * position bias and dropout inside. No [Lq, Lk] matrix is ever stored: the forward pass keeps an
 * online softmax, the backward pass recomputes the probabilities from the log-sum-exp of each row.
 *
 * All kernels have one plan: a workgroup of 64 threads works on one head. A thread **owns** a few rows in
 * registers (queries; keys in the dk/dv kernel), and the workgroup **streams** the rows of the other side
 * past them, 16 at a time, through workgroup memory (8 KiB, 13 KiB with bias gradients): one load serves
 * every owned row.
 *
 * The bias gradient is summed along diagonals by the dq kernel itself, in a fixed order and without
 * atomics: a tile of score gradients goes through workgroup memory and each thread sums its own diagonals.
 * A last kernel adds the partial sums.
 *
 * The text depends on head width, bias, dropout or not only; sizes, causality, stream and dropout
 * probability are params, so self- and cross-attention of a decoder share their pipelines.
 *
 * @module
 */

import type { Node } from "../graph/tensor.ts";
import {
  type AttentionAttrs,
  type AttentionSpec,
  attentionSpec,
} from "../primitives/attention_spec.ts";
import {
  type Binding,
  ceilDiv,
  type Dispatch,
  type KernelSource,
  LINEAR_GROUP,
  linearGrid,
} from "./kernel.ts";
import type { GpuLowering } from "./lower.ts";
import { HASH_WGSL, RUN_KEY_WGSL, RUN_SEQUENCE_WGSL } from "./wgsl.ts";

/** Kernel of the primitive `attention`. */
export function lowerAttention(node: Node<AttentionAttrs>, to: GpuLowering): void {
  const [q, k, v, mask, bias] = node.inputs, [out, lse] = node.outputs;
  to.emit(attentionForward(attentionSpec(node)), {
    q: to.at(q),
    k: to.at(k),
    v: to.at(v),
    mask: to.at(mask),
    out: to.at(out),
    lse: to.at(lse),
    ...(bias && { bias: to.at(bias) }),
  });
}

/** Kernels of the primitive `attentionGrad`. */
export function lowerAttentionGrad(node: Node<AttentionAttrs>, to: GpuLowering): void {
  const [q, k, v, mask, out, lse, g, bias] = node.inputs;
  const [dq, dk, dv, dbias] = node.outputs;
  const { launches, scratch } = attentionBackward(attentionSpec(node));
  const temporary = Object.entries(scratch)
    .map(([name, bytes]) => [name, to.scratch(bytes, name)]);
  for (const launch of launches) {
    to.emit(launch, {
      q: to.at(q),
      k: to.at(k),
      v: to.at(v),
      mask: to.at(mask),
      out: to.at(out),
      lse: to.at(lse),
      gOut: to.at(g),
      dq: to.at(dq),
      dk: to.at(dk),
      dv: to.at(dv),
      ...(bias && { bias: to.at(bias), dbias: to.at(dbias) }),
      ...Object.fromEntries(temporary),
    });
  }
}

/** The dispatches of a backward pass and the scratch buffers they pass results through. */
export interface AttentionBackward {
  /** In the order in which they must run. Buffers are named in each one's `source.bindings`. */
  launches: Dispatch[];
  /** Bytes of each scratch buffer by binding name: `delta`, and with bias `dbiasParts`. */
  scratch: Record<string, number>;
}

/**
 * The forward kernel. Bindings by name: `q`, `k`, `v`, `mask`, (`bias`), `out`, `lse`.
 *
 * Layouts, contiguous f32: `q`, `out` [batch, Lq, heads·headDim]; `k`, `v` [batch, Lk, heads·headDim];
 * `bias` [Lq + Lk − 1, heads], row j − i + Lq − 1 for query i and key j, one such table after the other if
 * sequences have their own; `lse` [batch, heads, Lq]. `mask` is u32 [batch, Lk], nonzero where the key may be
 * attended.
 *
 * `lse` receives each row's log-sum-exp of the scores. A row that may attend nowhere gives output 0 and
 * lse 1e20, with which the backward kernels find all its probabilities to be 0.
 *
 * @throws {RangeError} if the spec is not supported
 *
 * @example
 * ```ts
 * import { attentionForward } from "./attention.ts";
 * import assert from "node:assert/strict";
 *
 * const launch = attentionForward({
 *   batch: 2, heads: 4, queryLength: 128, keyLength: 128, headDim: 32,
 *   causal: false, bias: true, dropout: 0.1, stream: 7,
 * });
 * assert.deepEqual(
 *   launch.source.bindings.map((b) => b.name),
 *   ["q", "k", "v", "mask", "bias", "out", "lse"],
 * );
 * ```
 */
export function attentionForward(spec: AttentionSpec): Dispatch {
  checkSpec(spec);
  const tile = forwardTile(spec);
  return launch(spec, tile, {
    name: "attention",
    reads: ["q", "k", "v", "mask", ...(spec.bias ? ["bias"] : [])],
    writes: ["out", "lse"],
    rows: spec.queryLength,
    main: forwardMain(spec, tile),
  });
}

/**
 * The backward kernels, in order: `delta` (row sums of gOut·out), dq (with bias also partial sums of
 * dbias), dk and dv (one kernel, or two where registers are short), and with bias the sum of the parts.
 *
 * Bindings by name: those of {@link attentionForward}, the output's gradient `gOut` like `out`, the
 * results `dq`, `dk`, `dv`, (`dbias`) like what they are gradients of, and scratch `delta`, (`dbiasParts`).
 * Each launch binds a subset, listed in its `source.bindings`. Results are overwritten, not added to.
 *
 * @throws {RangeError} if the spec is not supported
 *
 * @example
 * ```ts
 * import { attentionBackward } from "./attention.ts";
 * import assert from "node:assert/strict";
 *
 * const { launches, scratch } = attentionBackward({
 *   batch: 2, heads: 4, queryLength: 128, keyLength: 128, headDim: 32,
 *   causal: true, bias: false, dropout: 0, stream: 7,
 * });
 * assert.equal(launches.length, 3);
 * assert.deepEqual(scratch, { delta: 2 * 4 * 128 * 4 });
 * ```
 */
export function attentionBackward(spec: AttentionSpec): AttentionBackward {
  checkSpec(spec);
  const { batch, heads, queryLength, keyLength } = spec;
  const bias = spec.bias ? ["bias"] : [];
  const inputs = ["q", "k", "v", "mask", ...bias, "gOut", "lse", "delta"];
  const scratch: Record<string, number> = { delta: batch * heads * queryLength * 4 };

  const tile = backwardTile(spec);
  const parts = diagonalParts(spec, tile);
  const launches = [
    deltaLaunch(spec),
    launch(spec, tile, {
      name: "attention dq",
      reads: inputs,
      writes: spec.bias ? ["dq", "dbiasParts"] : ["dq"],
      rows: queryLength,
      main: queryGradMain(spec, tile),
    }),
  ];
  for (const outputs of keyGradOutputs(spec)) {
    launches.push(launch(spec, tile, {
      name: `attention ${outputs.join(" ")}`,
      // Dropped, not left unused: dv alone needs neither v nor delta.
      reads: outputs.includes("dk") ? inputs : inputs.filter((n) => n !== "v" && n !== "delta"),
      writes: outputs,
      rows: keyLength,
      main: keyGradMain(spec, tile, outputs),
    }));
  }
  if (spec.bias) {
    scratch.dbiasParts = parts.members * parts.blocks * heads * parts.width * 4;
    launches.push(sumPartsLaunch(spec, parts));
  }
  return { launches, scratch };
}

function checkSpec(spec: AttentionSpec): void {
  const { headDim, dropout } = spec;
  if (headDim % 4 !== 0 || headDim < 4 || headDim > 128) {
    throw new RangeError(`attention: head width ${headDim} is not a multiple of 4 from 4 to 128`);
  }
  if (!(dropout >= 0 && dropout < 1)) {
    throw new RangeError(`attention: dropout ${dropout} is not in [0, 1)`);
  }
  for (const key of ["batch", "heads", "queryLength", "keyLength"] as const) {
    if (!(Number.isInteger(spec[key]) && spec[key] > 0)) {
      throw new RangeError(`attention: ${key} is ${spec[key]}, expected a positive integer`);
    }
  }
}

// ---- tile shapes -------------------------------------------------------------------------------

/** Threads of a workgroup. */
const THREADS = 64;

/** How a kernel shares the work out. */
interface Tile {
  /** Rows that a thread owns. */
  rows: number;
  /** Streamed rows handled per turn of the inner loop, written out. */
  step: number;
  /** Streamed rows that a workgroup stages in workgroup memory at once. */
  staged: number;
}

/** Consecutive rows of one head that a workgroup owns. */
function blockRows(tile: Tile): number {
  return THREADS * tile.rows;
}

function tileOf(headDim: number, rows: number): Tile {
  return { rows, step: 4, staged: headDim > 64 ? 8 : 16 };
}

function forwardTile({ headDim }: AttentionSpec): Tile {
  return tileOf(headDim, headDim <= 32 ? 2 : 1);
}

/** Backward kernels keep twice the state of the forward one. */
function backwardTile({ headDim }: AttentionSpec): Tile {
  return tileOf(headDim, 1);
}

/** The dk/dv kernel keeps k, v, dk and dv: past width 32 that leaves a thread no registers. */
function keyGradOutputs({ headDim }: AttentionSpec): string[][] {
  return headDim <= 32 ? [["dk", "dv"]] : [["dv"], ["dk"]];
}

/** How the partial sums of dbias lie: [blocks, members, heads, width]. */
interface DiagonalParts {
  /** Blocks of query rows that have sums of their own. */
  blocks: number;
  /** Query rows in such a block. */
  rows: number;
  /** Parts per block. */
  members: number;
  /** Diagonals that a block can touch. */
  width: number;
}

function diagonalParts(spec: AttentionSpec, tile: Tile): DiagonalParts {
  const { batch, queryLength, keyLength } = spec;
  const rows = blockRows(tile);
  const keys = ceilDiv(keyLength, tile.staged) * tile.staged;
  return { blocks: ceilDiv(queryLength, rows), rows, members: batch, width: keys + rows - 1 };
}

// ---- launches ----------------------------------------------------------------------------------

const PARAMS = [
  "count", // workgroups that have work
  "blocks", // blocks of owned rows per sequence
  "batch",
  "heads",
  "lq",
  "lk",
  "reach", // query i sees keys up to i + reach
  "stream",
  "threshold", // of dropout
  "keep", // bits of 1 / (1 - dropout)
];

const FLOATS = new Set(["bias", "lse", "delta", "dbias", "dbiasParts"]);

function bindings(reads: string[], writes: string[]): Binding[] {
  const type = (name: string) =>
    name === "mask" ? "array<u32>" : FLOATS.has(name) ? "array<f32>" : "array<vec4f>";
  return [
    ...reads.map((name): Binding => ({ name, type: type(name), access: "read" })),
    ...writes.map((name): Binding => ({ name, type: type(name), access: "read_write" })),
  ];
}

interface KernelPlan {
  name: string;
  reads: string[];
  writes: string[];
  /** Length of the side whose rows are owned. */
  rows: number;
  main: string;
}

function launch(spec: AttentionSpec, tile: Tile, plan: KernelPlan): Dispatch {
  const { batch, heads, queryLength: lq, keyLength: lk } = spec;
  const blocks = ceilDiv(plan.rows, blockRows(tile));
  const count = batch * heads * blocks;
  const source: KernelSource = {
    name: plan.name,
    bindings: bindings(plan.reads, plan.writes),
    params: PARAMS,
    body: (spec.dropout > 0 ? HASH_WGSL + "\n" : "") + plan.main,
    usesRun: spec.dropout > 0,
  };
  return {
    source,
    params: [
      count,
      blocks,
      batch,
      heads,
      lq,
      lk,
      spec.causal ? 0 : lq + lk,
      spec.stream >>> 0,
      Math.floor(spec.dropout * 2 ** 32),
      new Uint32Array(new Float32Array([1 / (1 - spec.dropout)]).buffer)[0],
    ],
    grid: linearGrid(count),
  };
}

// ---- pieces of WGSL ----------------------------------------------------------------------------

/** Score of an excluded key: finite, so that no NaN can arise, and far below {@link FLOOR}. */
const MASKED = "-1e30";
/** Least running maximum: exp(MASKED - FLOOR) is 0. */
const FLOOR = "-1e20";
/** Log-sum-exp of a row without keys: exp(anything - NOWHERE) is 0. */
const NOWHERE = "1e20";

const each = (n: number, piece: (i: number) => string): string =>
  Array.from({ length: n }, (_, i) => piece(i)).filter((s) => s).join("\n");

/** Statements only if `condition`, in WGSL. */
const when = (condition: boolean, text: string): string => condition ? text : "";

/** The entry point. `item` handles the owned rows from `first` on of head `h` of sequence `b`. */
function entry(tile: Tile, item: string, before = ""): string {
  // The early return is the same for a whole workgroup: barriers may follow.
  return `@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) lid: vec3u) {
let group = ${LINEAR_GROUP};
if (group >= P.count) { return; }
let block = group % P.blocks;
let h = group / P.blocks % P.heads;
let b = group / P.blocks / P.heads;
let first = (block * ${THREADS}u + lid.x) * ${tile.rows}u;
${before}
${item}
}`;
}

/** First element of row `row` of this head in an array with `length` rows per sequence. */
const rowAt = (row: string, length: string, d4: number): string =>
  `((b * ${length} + ${row}) * P.heads + h) * ${d4}u`;

/** Declares `at0`…: where the owned rows are. Rows past the end read the last one and store nothing. */
function ownedRows(tile: Tile, length: string, d4: number): string {
  return each(
    tile.rows,
    (r) =>
      `let row${r} = min(first + ${r}u, ${length} - 1u); ` +
      `let at${r} = ${rowAt(`row${r}`, length, d4)};`,
  );
}

/** Loads the owned rows of `array` into `<to><row>_<column / 4>`. */
function loadOwned(tile: Tile, d4: number, array: string, to: string, factor = ""): string {
  return each(
    tile.rows,
    (r) => each(d4, (d) => `let ${to}${r}_${d} = ${array}[at${r} + ${d}u]${factor};`),
  );
}

/** Declares accumulators `<name><row>_<column / 4>`. */
function accumulators(tile: Tile, d4: number, name: string): string {
  return each(tile.rows, (r) => each(d4, (d) => `var ${name}${r}_${d} = vec4f();`));
}

/** Stores `value(row, column / 4)` into the owned rows. */
function storeOwned(
  tile: Tile,
  d4: number,
  length: string,
  array: string,
  value: (r: number, d: number) => string,
): string {
  return each(
    tile.rows,
    (r) =>
      `if (first + ${r}u < ${length}) {\n` +
      each(d4, (d) => `${array}[at${r} + ${d}u] = ${value(r, d)};`) + "\n}",
  );
}

/** `target[r] += owned[r] · streamed` for every owned row, column by column. */
function dots(
  tile: Tile,
  d4: number,
  target: (r: number) => string,
  owned: string,
  streamed: (d: number) => string,
): string {
  return each(d4, (d) =>
    each(4, (c) =>
      each(tile.rows, (r) => {
        const component = "xyzw"[c];
        return `${target(r)} = fma(${owned}${r}_${d}.${component}, ${streamed(d)}.${component}, ${
          target(r)
        });`;
      })));
}

/** The loop over the other side's rows. */
interface Stream {
  /** Arrays whose rows are streamed. */
  arrays: string[];
  /** WGSL: rows per sequence. */
  length: string;
  /** WGSL: first row; must be the same for a whole workgroup. */
  from: string;
  /** WGSL: end; the same holds. */
  to: string;
  /** Statements for rows `s` to `s + step - 1`, which are loaded as `<array><t>_<column / 4>`. */
  body: (load: (array: string, t: number) => string) => string;
  /** Statements after each tile, whose first row is `base`. */
  afterTile?: string;
}

function stream(tile: Tile, d4: number, plan: Stream): string {
  const { arrays, length, from, to, body } = plan;
  const vectors = tile.staged * d4;
  const copies = ceilDiv(vectors, THREADS);
  return `for (var base = ${from}; base < ${to}; base += ${tile.staged}u) {
workgroupBarrier();
${
    each(copies, (n) => {
      const copy = `let e = lid.x + ${n * THREADS}u; ` +
        `let source = ${
          rowAt(`min(base + e / ${d4}u, ${length} - 1u)`, length, d4)
        } + e % ${d4}u; ` +
        arrays.map((a) => `${a}Tile[e] = ${a}[source];`).join(" ");
      const partial = (n + 1) * THREADS > vectors;
      return partial ? `if (lid.x + ${n * THREADS}u < ${vectors}u) { ${copy} }` : `{ ${copy} }`;
    })
  }
workgroupBarrier();
for (var turn = 0u; turn < ${tile.staged}u; turn += ${tile.step}u) {
let s = base + turn;
${
    body((array, t) =>
      each(d4, (d) => `let ${array}${t}_${d} = ${array}Tile[(turn + ${t}u) * ${d4}u + ${d}u];`)
    )
  }
}
${plan.afterTile ?? ""}
}`;
}

/** Workgroup arrays that {@link stream} fills. */
function tileArrays(tile: Tile, d4: number, arrays: string[]): string {
  return arrays.map((a) => `var<workgroup> ${a}Tile: array<vec4f, ${tile.staged * d4}>;\n`).join(
    "",
  );
}

/**
 * The bias of the owned rows as a window that slides by one diagonal per streamed row: row r meets now
 * what row r − 1 met before. `diagonal(at, r)` is the WGSL index of the diagonal that row r meets at
 * streamed row `at`; `open` takes the row before the first.
 */
function biasWindow(
  { ownBias = false }: AttentionSpec,
  tile: Tile,
  diagonal: (at: string, r: number) => string,
): {
  open: (before: string) => string;
  slide: (at: string) => string;
} {
  const table = when(ownBias, "b * (P.lq + P.lk - 1u) * P.heads + ");
  const load = (index: string) => `bias[${table}min(${index}, P.lq + P.lk - 2u) * P.heads + h]`;
  return {
    open: (before) =>
      each(tile.rows - 1, (r) => `var bias${r} = ${load(diagonal(before, r))};`) +
      `\nvar bias${tile.rows - 1} = 0.0;`,
    slide: (at) =>
      each(tile.rows - 1, (r) => `bias${tile.rows - 1 - r} = bias${tile.rows - 2 - r};`) +
      `\nbias0 = ${load(diagonal(at, 0))};`,
  };
}

/** Declares `dropKey`, the head's key of the dropout mask. */
const DROP_KEY = `let dropKey = mix32(mix32(${RUN_KEY_WGSL} ^ P.stream) ^ ` +
  `mix32((${RUN_SEQUENCE_WGSL} + b) * P.heads + h));`;

/** WGSL: `value` if the weight of query `i` and key `j` survives dropout, else 0. */
const dropped = (value: string, i: string, j: string): string =>
  `select(0.0, ${value}, mix32(dropKey ^ (${i} * P.lk + ${j})) >= P.threshold)`;

/** WGSL: `score` or {@link MASKED}; `same` is a further condition, if any. */
const ifVisible = (score: string, i: string, j: string, same: string): string =>
  `select(${MASKED}, ${score}, (${j} <= ${i} + P.reach)${same && ` & (${same})`})`;

/** Declares `own<row>`, the segments of the owned rows. */
const ownSegments = ({ segments = false }: AttentionSpec, { rows }: Tile): string =>
  when(segments, each(rows, (r) => `let own${r} = mask[b * P.lk + row${r}];`));

/** Declares `other<t>`, the segment of the streamed row `at`. */
const otherSegment = ({ segments = false }: AttentionSpec, t: number, at: string): string =>
  when(segments, `let other${t} = mask[b * P.lk + min(${at}, P.lk - 1u)];`);

const sameSegment = ({ segments = false }: AttentionSpec, r: number, t: number): string =>
  when(segments, `own${r} == other${t}`);

/** WGSL: 0, or {@link MASKED} if key `j` may not be attended. */
const keyMask = (j: string): string =>
  `select(${MASKED}, 0.0, (${j} < P.lk) & (mask[b * P.lk + min(${j}, P.lk - 1u)] != 0u))`;

/** WGSL: the factor of the scores, behind a product. */
const scaled = ({ headDim, scale = headDim ** -0.5 }: AttentionSpec): string =>
  when(scale !== 1, ` * ${scale}`);

/** WGSL: one past the last key that a workgroup's queries see. */
const lastKey = (tile: Tile): string => `min(P.lk, (block + 1u) * ${blockRows(tile)}u + P.reach)`;

// ---- kernels -----------------------------------------------------------------------------------

/** Declares `score<row>_<t>` of owned queries and streamed key t, whose k is loaded as `k<t>_…`. */
function queryScores(spec: AttentionSpec, tile: Tile, t: number, slide: string): string {
  const d4 = spec.headDim / 4;
  return `let j${t} = s + ${t}u; let mask${t} = ${keyMask(`j${t}`)};
${otherSegment(spec, t, `j${t}`)}
${slide}
${each(tile.rows, (r) => `var score${r}_${t} = mask${t}${when(spec.bias, ` + bias${r}`)};`)}
${dots(tile, d4, (r) => `score${r}_${t}`, "q", (d) => `k${t}_${d}`)}
${
    each(
      tile.rows,
      (r) => {
        const same = sameSegment(spec, r, t);
        return `score${r}_${t} = ${ifVisible(`score${r}_${t}`, `first + ${r}u`, `j${t}`, same)};`;
      },
    )
  }`;
}

/** Diagonal that query first + r meets at key `at`. */
const queryDiagonal = (at: string, r: number): string =>
  `(${at} + P.lq - 1u - first${when(r > 0, ` - ${r}u`)})`;

function forwardMain(spec: AttentionSpec, tile: Tile): string {
  const d4 = spec.headDim / 4, { rows, step } = tile;
  const drop = spec.dropout > 0;
  const window = biasWindow(spec, tile, queryDiagonal);
  const weight = (r: number, t: number) =>
    drop ? dropped(`p${r}_${t}`, `(first + ${r}u)`, `j${t}`) : `p${r}_${t}`;
  const body = (load: (array: string, t: number) => string) => `
${
    each(step, (t) =>
      load("k", t) + "\n" + queryScores(spec, tile, t, when(spec.bias, window.slide(`j${t}`))))
  }
${
    each(rows, (r) => {
      const scores = Array.from({ length: step }, (_, t) => `score${r}_${t}`);
      return `let top${r} = ${scores.reduce((max, x) => `max(${max}, ${x})`, `max${r}`)};
let shrink${r} = exp(max${r} - top${r});
max${r} = top${r};
${each(step, (t) => `let p${r}_${t} = exp(score${r}_${t} - top${r});`)}
sum${r} = sum${r} * shrink${r}${scores.map((_, t) => ` + p${r}_${t}`).join("")};
${each(step, (t) => `let weight${r}_${t} = ${weight(r, t)};`)}
${each(d4, (d) => `acc${r}_${d} *= shrink${r};`)}`;
    })
  }
${
    each(step, (t) =>
      load("v", t) + "\n" +
      each(d4, (d) =>
        each(rows, (r) => `acc${r}_${d} = fma(vec4f(weight${r}_${t}), v${t}_${d}, acc${r}_${d});`)))
  }`;
  return tileArrays(tile, d4, ["k", "v"]) + entry(
    tile,
    `${when(drop, DROP_KEY)}
${ownedRows(tile, "P.lq", d4)}
${ownSegments(spec, tile)}
${loadOwned(tile, d4, "q", "q", scaled(spec))}
${accumulators(tile, d4, "acc")}
${each(rows, (r) => `var max${r} = ${FLOOR}; var sum${r} = 0.0;`)}
${when(spec.bias, window.open(`${0xffffffff}u`))}
${
      stream(tile, d4, {
        arrays: ["k", "v"],
        length: "P.lk",
        from: "0u",
        to: lastKey(tile),
        body,
      })
    }
${
      each(rows, (r) =>
        `// The largest term of a row with keys is 1: its sum cannot be smaller.
let part${r} = ${when(drop, "bitcast<f32>(P.keep) * ")}1.0 / max(sum${r}, 1.0);
if (first + ${r}u < P.lq) { lse[(b * P.heads + h) * P.lq + row${r}] =
  select(${NOWHERE}, max${r} + log(sum${r}), sum${r} > 0.5); }`)
    }
${storeOwned(tile, d4, "P.lq", "out", (r, d) => `acc${r}_${d} * part${r}`)}`,
  );
}

/** Row sums of gOut · out: a thread per row and head. */
function deltaLaunch(spec: AttentionSpec): Dispatch {
  const d4 = spec.headDim / 4;
  const count = spec.batch * spec.heads * spec.queryLength;
  return {
    source: {
      name: "attention delta",
      bindings: bindings(["out", "gOut"], ["delta"]),
      params: ["count", "heads", "lq"],
      body: `@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) lid: vec3u) {
  let row = ${LINEAR_GROUP} * ${THREADS}u + lid.x;
  if (row >= P.count) { return; }
  let h = row % P.heads;
  let i = row / P.heads % P.lq;
  let b = row / P.heads / P.lq;
  var sum = vec4f();
  for (var d = 0u; d < ${d4}u; d++) { sum = fma(out[row * ${d4}u + d], gOut[row * ${d4}u + d], sum); }
  delta[(b * P.heads + h) * P.lq + i] = (sum.x + sum.y) + (sum.z + sum.w);
}`,
    },
    params: [count, spec.heads, spec.queryLength],
    grid: linearGrid(ceilDiv(count, THREADS)),
  };
}

function queryGradMain(spec: AttentionSpec, tile: Tile): string {
  const d4 = spec.headDim / 4, { rows } = tile;
  const drop = spec.dropout > 0;
  const window = biasWindow(spec, tile, queryDiagonal);
  const sums = spec.bias ? diagonalSums(tile) : undefined;
  const body = (load: (array: string, t: number) => string) =>
    each(tile.step, (t) => {
      const kept = (r: number) =>
        dropped(`gp${r}_${t} * bitcast<f32>(P.keep)`, `(first + ${r}u)`, `j${t}`);
      return `${load("k", t)}
${queryScores(spec, tile, t, when(spec.bias, window.slide(`j${t}`)))}
${each(rows, (r) => `var gp${r}_${t} = 0.0;`)}
${load("v", t)}
${dots(tile, d4, (r) => `gp${r}_${t}`, "g", (d) => `v${t}_${d}`)}
${
        each(rows, (r) =>
          `${
            when(drop, `gp${r}_${t} = ${kept(r)};\n`)
          }let ds${r}_${t} = exp(score${r}_${t} - lse${r}) * (gp${r}_${t} - delta${r});`)
      }
${
        each(
          d4,
          (d) =>
            each(rows, (r) => `dq${r}_${d} = fma(vec4f(ds${r}_${t}), k${t}_${d}, dq${r}_${d});`),
        )
      }
${sums?.add(t) ?? ""}`;
    });
  return tileArrays(tile, d4, ["k", "v"]) + (sums?.declarations ?? "") + entry(
    tile,
    `${when(drop, DROP_KEY)}
${ownedRows(tile, "P.lq", d4)}
${ownSegments(spec, tile)}
${loadOwned(tile, d4, "q", "q", scaled(spec))}
${loadOwned(tile, d4, "gOut", "g")}
${accumulators(tile, d4, "dq")}
${
      each(rows, (r) =>
        `let stat${r} = (b * P.heads + h) * P.lq + row${r};
let lse${r} = select(${NOWHERE}, lse[stat${r}], first + ${r}u < P.lq); let delta${r} = delta[stat${r}];`)
    }
${when(spec.bias, window.open(`${0xffffffff}u`))}
let end = ${lastKey(tile)};
${
      stream(tile, d4, {
        arrays: ["k", "v"],
        length: "P.lk",
        from: "0u",
        to: "end",
        body,
        afterTile: sums?.afterTile,
      })
    }
${storeOwned(tile, d4, "P.lq", "dq", (r, d) => `dq${r}_${d}${scaled(spec)}`)}`,
    sums?.before,
  );
}

/** How a dq kernel sums score gradients along diagonals, piece by piece. */
interface DiagonalSums {
  /** At module level. */
  declarations: string;
  /** Once per thread. */
  before: string;
  /** After the gradients of key t. */
  add: (t: number) => string;
  /** After a staged tile. */
  afterTile: string;
}

/** A tile of gradients in workgroup memory, whose diagonals the threads share out. */
function diagonalSums(tile: Tile): DiagonalSums {
  const { rows, staged } = tile, threads = THREADS;
  const all = blockRows(tile), pitch = staged + 1;
  return {
    declarations: `var<workgroup> dsTile: array<f32, ${all * pitch}>;\n`,
    before: `let width = (P.lk + ${staged - 1}u) / ${staged}u * ${staged}u + ${all - 1}u;
let part = ((block * P.batch + b) * P.heads + h) * width;
for (var n = lid.x; n < width; n += ${threads}u) { dbiasParts[part + n] = 0.0; }`,
    add: (t) =>
      each(
        rows,
        (r) => `dsTile[(lid.x * ${rows}u + ${r}u) * ${pitch}u + turn + ${t}u] = ds${r}_${t};`,
      ),
    // Thread n adds to slots n, n + threads, … whatever the tile, so no other thread touches them.
    afterTile: `workgroupBarrier();
for (var n = (lid.x + ${threads}u - base % ${threads}u) % ${threads}u; n < ${all + staged - 1}u; ` +
      `n += ${threads}u) {
var sum = 0.0;
${
        each(staged, (t) =>
          `{ let row = ${t + all - 1}u - n; ` +
          `if (row < ${all}u) { sum += dsTile[row * ${pitch}u + ${t}u]; } }`)
      }
dbiasParts[part + base + n] += sum;
}`,
  };
}

/** dbias from its partial sums: a thread per diagonal and head. */
function sumPartsLaunch(spec: AttentionSpec, parts: DiagonalParts): Dispatch {
  const diagonals = spec.queryLength + spec.keyLength - 1;
  return {
    source: {
      name: "attention dbias",
      bindings: bindings(["dbiasParts"], ["dbias"]),
      params: ["diagonals", "heads", "lq", "blocks", "rows", "members", "width"],
      body: `@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) lid: vec3u) {
  let thread = ${LINEAR_GROUP} * ${THREADS}u + lid.x;
  if (thread >= P.diagonals * P.heads) { return; }
  let diagonal = thread % P.diagonals;
  let h = thread / P.diagonals;
  var sum = 0.0;
  for (var block = 0u; block < P.blocks; block++) {
    let slot = diagonal + (block + 1u) * P.rows - P.lq;
    if (slot < P.width) {
      for (var m = 0u; m < P.members; m++) {
        sum += dbiasParts[((block * P.members + m) * P.heads + h) * P.width + slot];
      }
    }
  }
  dbias[diagonal * P.heads + h] = sum;
}`,
    },
    params: [
      diagonals,
      spec.heads,
      spec.queryLength,
      parts.blocks,
      parts.rows,
      parts.members,
      parts.width,
    ],
    grid: linearGrid(ceilDiv(diagonals * spec.heads, THREADS)),
  };
}

/** Diagonal that key first + r meets at query `at`. */
const keyDiagonal = (at: string, r: number): string =>
  `(first${when(r > 0, ` + ${r}u`)} + P.lq - 1u - ${at})`;

function keyGradMain(spec: AttentionSpec, tile: Tile, outputs: string[]): string {
  const d4 = spec.headDim / 4, { rows } = tile;
  const drop = spec.dropout > 0;
  const dk = outputs.includes("dk"), dv = outputs.includes("dv");
  const window = biasWindow(spec, tile, keyDiagonal);
  const keep = "bitcast<f32>(P.keep)";
  const body = (load: (array: string, t: number) => string) =>
    each(tile.step, (t) =>
      `let i${t} = s + ${t}u;
${otherSegment(spec, t, `i${t}`)}
let stat${t} = (b * P.heads + h) * P.lq + min(i${t}, P.lq - 1u);
let lse${t} = select(${NOWHERE}, lse[stat${t}], i${t} < P.lq);
${when(spec.bias, window.slide(`i${t}`))}
${load("q", t)}
${each(rows, (r) => `var score${r}_${t} = mask${r}${when(spec.bias, ` + bias${r}`)};`)}
${dots(tile, d4, (r) => `score${r}_${t}`, "k", (d) => `q${t}_${d}`)}
${
        each(rows, (r) =>
          `let p${r}_${t} = exp(${
            ifVisible(`score${r}_${t}`, `i${t}`, `first + ${r}u`, sameSegment(spec, r, t))
          } - lse${t});` +
          when(drop, `\nlet keep${r}_${t} = ${dropped(keep, `i${t}`, `(first + ${r}u)`)};`))
      }
${load("gOut", t)}
${
        when(
          dv,
          each(rows, (r) => `let weight${r}_${t} = p${r}_${t}${when(drop, ` * keep${r}_${t}`)};`) +
            "\n" +
            each(d4, (d) =>
              each(
                rows,
                (r) => `dv${r}_${d} = fma(vec4f(weight${r}_${t}), gOut${t}_${d}, dv${r}_${d});`,
              )),
        )
      }
${
        when(
          dk,
          `let delta${t} = delta[stat${t}];\n` +
            each(rows, (r) => `var gp${r}_${t} = 0.0;`) + "\n" +
            dots(tile, d4, (r) => `gp${r}_${t}`, "v", (d) => `gOut${t}_${d}`) + "\n" +
            each(
              rows,
              (r) =>
                `let ds${r}_${t} = p${r}_${t} * (gp${r}_${t}${
                  when(drop, ` * keep${r}_${t}`)
                } - delta${t});`,
            ) +
            "\n" +
            each(
              d4,
              (d) =>
                each(
                  rows,
                  (r) => `dk${r}_${d} = fma(vec4f(ds${r}_${t}), q${t}_${d}, dk${r}_${d});`,
                ),
            ),
        )
      }`);
  const from = `block * ${blockRows(tile)}u`;
  return tileArrays(tile, d4, ["q", "gOut"]) + entry(
    tile,
    `${when(drop, DROP_KEY)}
${ownedRows(tile, "P.lk", d4)}
${ownSegments(spec, tile)}
${loadOwned(tile, d4, "k", "k", scaled(spec))}
${when(dk, loadOwned(tile, d4, "v", "v"))}
${when(dk, accumulators(tile, d4, "dk"))}
${when(dv, accumulators(tile, d4, "dv"))}
${each(rows, (r) => `let mask${r} = ${keyMask(`(first + ${r}u)`)};`)}
let start = ${from} - min(${from}, P.reach);
${when(spec.bias, window.open("(start - 1u)"))}
${
      stream(tile, d4, {
        arrays: ["q", "gOut"],
        length: "P.lq",
        from: "start",
        to: "P.lq",
        body,
      })
    }
${when(dk, storeOwned(tile, d4, "P.lk", "dk", (r, d) => `dk${r}_${d}${scaled(spec)}`))}
${when(dv, storeOwned(tile, d4, "P.lk", "dv", (r, d) => `dv${r}_${d}`))}`,
  );
}
