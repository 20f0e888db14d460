/**
 * WGSL for fused pointwise operations: as a kernel of their own, behind an anchor (epilogue) or before
 * one (prologue). All three see the output as a matrix and work on one or four columns of a row at a time.
 *
 * @module
 */

import { repeatOf } from "../graph/broadcast.ts";
import { type Expression, x } from "../graph/expression.ts";
import {
  asMatrix,
  type DType,
  type Node,
  sizeOf,
  storageOf,
  type Tensor,
} from "../graph/tensor.ts";
import { RUN_SCALAR } from "../primitives/pointwise.ts";
import { GATHER } from "../primitives/rows.ts";
import { isInline } from "../program/fuse.ts";
import type { Operand } from "../program/lowering.ts";
import { type Binding, type Dispatch, type Epilogue, LINEAR_GROUP, linearGrid } from "./kernel.ts";
import { printExpression, wgslType } from "./wgsl.ts";

/** An epilogue with the buffers it binds. */
export interface BoundEpilogue {
  /** What to do with each value. */
  epilogue: Epilogue;
  /** Operands of `epilogue.bindings`, by name. */
  operands: Record<string, Operand>;
}

/** Fused pointwise operations that compute an operand element by element, with the buffers they bind. */
export interface BoundPrologue {
  /** Buffers, params, functions. Its `store` is not used. */
  parts: Omit<Epilogue, "store">;
  /** Operands of `parts.bindings`, by name. */
  operands: Record<string, Operand>;
  /**
   * Statements and expression of one value of the operand.
   *
   * @param row WGSL `u32` expression: flat row
   * @param col WGSL `u32` expression: first column, in elements
   */
  load(row: string, col: string, width: 1 | 4): { statements: string; value: string };
  /**
   * The same for the `index`-th group of {@link width} elements, counted through all rows. The statements
   * define `i`, so they need a block of their own.
   */
  loadLinear(index: string): { statements: string; value: string };
  /** 4 if rows can be read four columns at a time. */
  width: 1 | 4;
}

/** What the generator must know about its surroundings. */
export interface GroupContext {
  /** Word of the run block that holds a scalar input. */
  scalarWord(name: string): number;
  /** True if the tensor shares memory with the group's output. */
  inPlace(t: Tensor): boolean;
  /** Prefix of generated names, so that two groups can live in one kernel. */
  prefix: string;
}

/** A group of pointwise nodes turned into text. */
class Group {
  readonly bindings: Binding[] = [];
  readonly operands: Record<string, Operand> = {};
  readonly params: string[] = [];
  readonly values: number[] = [];
  /** Whether what was emitted so far reads the run block. */
  usesRun = false;
  /** 4 if the rows of the output can be handled four columns at a time. */
  readonly width: 1 | 4;

  readonly #nodes: readonly Node[];
  readonly #shape: readonly number[];
  readonly #context: GroupContext;
  readonly #names = new Map<string, string>();
  readonly #paramOf = new Map<number, string>();

  constructor(nodes: readonly Node[], shape: readonly number[], context: GroupContext) {
    this.#nodes = nodes;
    this.#shape = shape;
    this.#context = context;
    this.width = asMatrix(shape).cols % 4 === 0 ? 4 : 1;
  }

  /** A number as a WGSL expression, passed as a param so that the text does not depend on it. */
  param(value: number): string {
    let name = this.#paramOf.get(value);
    if (!name) {
      name = `${this.#context.prefix}p${this.params.length}`;
      this.#paramOf.set(value, name);
      this.params.push(name);
      this.values.push(value);
    }
    return `P.${name}`;
  }

  /** Binds a tensor as an array of the given element width; returns its WGSL name. */
  bind(t: Tensor, width: 1 | 4, access: Binding["access"] = "read"): string {
    const owner = storageOf(t);
    const id = `${owner.node.id}.${owner.index}.${width}`;
    let name = this.#names.get(id);
    if (!name) {
      name = `${this.#context.prefix}t${this.bindings.length}`;
      this.#names.set(id, name);
      this.bindings.push({ name, type: `array<${wgslType(t.dtype, width)}>`, access });
      this.operands[name] = { tensor: owner };
    }
    return name;
  }

  /**
   * Statements that compute every node at a place, and the expression of the last one.
   *
   * @param seeds expressions of tensors that are already in registers
   * @param at flat index of the place, where it is known; computed from row and col if absent
   */
  emit(
    seeds: Map<Tensor, string>,
    row: string,
    col: string,
    width: 1 | 4,
    at?: string,
  ): { statements: string; value: string; flat: string } {
    const { cols } = asMatrix(this.#shape);
    const tag = `${this.#context.prefix}v`;
    const flat = `${tag}_at`;
    const statements = [`let ${flat} = ${at ?? `${row} * ${this.param(cols)} + ${col}`};`];
    const known = new Map(seeds);
    let value = [...seeds.values()].at(-1) ?? "";
    for (const [i, node] of this.#nodes.entries()) {
      value = `${tag}${i}`;
      if (node.primitive === GATHER) {
        statements.push(`let ${value} = ${this.#gather(node, row, col, flat, width)};`);
      } else {
        const printed = printExpression(
          expressionOf(node),
          node.inputs.map((t) => known.get(t) ?? this.#leaf(t, row, col, flat, width)),
          { width, flat, prefix: value, param: (v) => this.param(v) },
        );
        this.usesRun ||= printed.usesRun;
        statements.push(...printed.statements, `let ${value} = ${printed.value};`);
      }
      known.set(node.outputs[0], value);
    }
    return { statements: statements.join("\n"), value, flat };
  }

  /** WGSL of an operand that lies in memory; nothing for a literal, which is part of the expression. */
  #leaf(t: Tensor, row: string, col: string, flat: string, width: 1 | 4): string {
    const type = wgslType(t.dtype, width);
    if (t.node.primitive === RUN_SCALAR) {
      this.usesRun = true;
      const word = this.#context.scalarWord(t.node.attrs.name);
      return `${type}(bitcast<f32>(R[${word >> 2}][${word & 3}]))`;
    }
    if (isInline(t.node)) return "";
    const { cols } = asMatrix(this.#shape);
    const repeat = repeatOf(t.shape, this.#shape);
    switch (repeat.kind) {
      case "same": {
        if (this.#context.inPlace(t)) return element("out", flat, width, this.width);
        return element(this.bind(t, this.width), flat, width, this.width);
      }
      case "one":
        return `${type}(${this.bind(t, 1)}[0])`;
      case "suffix": {
        const at = repeat.period === cols ? col : `(${flat} % ${this.param(repeat.period)})`;
        const wide = repeat.period % 4 === 0 && this.width === 4 ? 4 : 1;
        if (wide === 4 || width === 1) return element(this.bind(t, wide), at, width, wide);
        const name = this.bind(t, 1);
        return spread4(type, (k) => `${name}[(${flat} + ${k}u) % ${this.param(repeat.period)}]`);
      }
      case "prefix": {
        const name = this.bind(t, 1);
        if (repeat.run === cols) return `${type}(${name}[${row}])`;
        const run = this.param(repeat.run);
        if (width === 1 || repeat.run % 4 === 0) return `${type}(${name}[${flat} / ${run}])`;
        return spread4(type, (k) => `${name}[(${flat} + ${k}u) / ${run}]`);
      }
      case "general": {
        const name = this.bind(t, 1);
        const index = (k: number) => this.#generalIndex(t.shape, `(${flat} + ${k}u)`);
        return width === 1 ? `${name}[${index(0)}]` : spread4(type, (k) => `${name}[${index(k)}]`);
      }
    }
  }

  /** Index of a broadcast operand from the flat index of the output, axis by axis. */
  #generalIndex(from: readonly number[], flat: string): string {
    const to = this.#shape, shift = to.length - from.length;
    const terms: string[] = [];
    for (let axis = to.length - 1, inner = 1, stride = 1; axis >= 0; axis--) {
      const n = axis >= shift ? from[axis - shift] : 1;
      if (n !== 1) {
        terms.push(
          `(${flat} / ${this.param(inner)}) % ${this.param(to[axis])} * ${this.param(stride)}`,
        );
      }
      inner *= to[axis];
      stride *= n;
    }
    return terms.join(" + ") || "0u";
  }

  #gather(node: Node, row: string, col: string, flat: string, width: 1 | 4): string {
    const [table, ids] = node.inputs;
    const last = this.param(table.shape[0] - 1);
    const type = wgslType(table.dtype, width);
    if (table.shape.length === 1) {
      const name = this.bind(table, 1), idName = this.bind(ids, 1);
      const at = (k: number) => `${name}[min(${idName}[${flat} + ${k}u], ${last})]`;
      return width === 1 ? at(0) : spread4(type, at);
    }
    const { cols } = asMatrix(table.shape);
    const at = `min(${this.bind(ids, 1)}[${row}], ${last}) * ${this.param(cols)} + ${col}`;
    const wide = cols % 4 === 0 ? 4 : 1;
    return element(this.bind(table, wide), `(${at})`, width, wide);
  }
}

/** What a pointwise node computes from its operands. */
function expressionOf({ primitive, inputs, outputs: [out], attrs }: Node): Expression {
  const args = inputs.map((t, i) =>
    isInline(t.node) && t.node.primitive !== RUN_SCALAR
      ? t.node.primitive.pointwise!.express([], t.node.attrs, { size: 1, leading: 1 })
      : x.argument(i, t.dtype)
  );
  const site = { size: sizeOf(out.shape), leading: out.shape[0] ?? 1 };
  return primitive.pointwise!.express(args, attrs, site);
}

/** Reads `width` elements at an element index from an array of vectors or of scalars. */
function element(name: string, index: string, width: 1 | 4, arrayWidth: 1 | 4): string {
  if (arrayWidth === 1) return `${name}[${index}]`;
  return width === 4 ? `${name}[${index} >> 2u]` : `${name}[${index} >> 2u][${index} & 3u]`;
}

function spread4(type: string, at: (k: number) => string): string {
  return `${type}(${[0, 1, 2, 3].map(at).join(", ")})`;
}

/** The statement that stores a value into `out`. */
function storeOut(value: string, flat: string, width: 1 | 4, arrayWidth: 1 | 4): string {
  return `${element("out", flat, width, arrayWidth)} = ${value};`;
}

function outBinding(dtype: DType, width: 1 | 4): Binding {
  return { name: "out", type: `array<${wgslType(dtype, width)}>`, access: "read_write" };
}

/**
 * A kernel for a step without anchor: a thread per one or four elements.
 *
 * @param nodes pointwise nodes, in order
 * @param result output of the last
 */
export function pointwiseKernel(
  nodes: readonly Node[],
  result: Tensor,
  context: GroupContext,
): { dispatch: Dispatch; operands: Record<string, Operand> } {
  const group = new Group(nodes, result.shape, context);
  const { width } = group;
  const { cols } = asMatrix(result.shape);
  const count = sizeOf(result.shape) / width;
  const threads = 64;
  const total = group.param(count);
  const { statements, value, flat } = group.emit(new Map(), "row", "col", width, `i * ${width}u`);
  const place = placeOf(statements, cols / width, (v) => group.param(v), width);
  const name = nodes.map((n) => n.primitive.name).slice(-3).join("+");
  return {
    dispatch: {
      source: {
        name,
        bindings: [...group.bindings, outBinding(result.dtype, width)],
        params: group.params,
        usesRun: group.usesRun,
        body: `@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) w: vec3u, @builtin(local_invocation_id) l: vec3u) {
let i = ${LINEAR_GROUP} * ${threads}u + l.x;
if (i >= ${total}) { return; }
${place}
${statements}
${storeOut(value, flat, width, width)}
}`,
      },
      params: group.values,
      grid: linearGrid(Math.ceil(count / threads)),
    },
    operands: { ...group.operands, out: { tensor: result } },
  };
}

/**
 * Statements that define `row` and `col` from the linear index `i`, if the text uses them. Integer division
 * is the slowest thing such a kernel can do, so it is left out, or is a shift, wherever possible.
 */
function placeOf(
  text: string,
  groupsPerRow: number,
  param: (value: number) => string,
  width: 1 | 4,
): string {
  if (!/\b(row|col)\b/.test(text)) return "";
  const shift = Math.log2(groupsPerRow);
  return Number.isInteger(shift)
    ? `let row = i >> ${param(shift)}; let col = (i & ${param(groupsPerRow - 1)}) * ${width}u;`
    : `let row = i / ${param(groupsPerRow)}; let col = (i - row * ${
      param(groupsPerRow)
    }) * ${width}u;`;
}

/**
 * An epilogue: applies nodes to an anchor's value, then stores the result.
 *
 * @param seed the anchor's output, which the nodes read from a register
 */
export function groupEpilogue(
  nodes: readonly Node[],
  seed: Tensor,
  result: Tensor,
  context: GroupContext,
): BoundEpilogue {
  const group = new Group(nodes, result.shape, context);
  // Emitting once fills the bindings and params, which the caller reads before it calls `store`.
  group.emit(new Map([[seed, "x"]]), "r", "c", group.width);
  const epilogue: Epilogue = {
    bindings: [...group.bindings, outBinding(result.dtype, group.width)],
    params: group.params,
    values: group.values,
    functions: "",
    usesRun: group.usesRun,
    store(value, row, col, width) {
      const body = group.emit(
        new Map([[seed, `${context.prefix}x`]]),
        `${context.prefix}r`,
        `${context.prefix}c`,
        width,
      );
      return `{ let ${context.prefix}x = ${value}; let ${context.prefix}r = ${row}; let ${context.prefix}c = ${col};
${body.statements}
${storeOut(body.value, body.flat, width, group.width)} }`;
    },
  };
  return { epilogue, operands: { ...group.operands, out: { tensor: result } } };
}

/** A prologue: computes elements of `target` from memory, with all the nodes fused before the anchor. */
export function groupPrologue(
  nodes: readonly Node[],
  target: Tensor,
  context: GroupContext,
): BoundPrologue {
  const group = new Group(nodes, target.shape, context);
  const { cols } = asMatrix(target.shape);
  const load = (row: string, col: string, width: 1 | 4, at?: string) => {
    if (nodes.length === 0) {
      const name = group.bind(target, group.width);
      const index = at ?? `${row} * ${group.param(cols)} + ${col}`;
      return { statements: "", value: element(name, `(${index})`, width, group.width) };
    }
    return group.emit(new Map(), row, col, width, at);
  };
  const loadLinear = (index: string) => {
    const { width } = group;
    const { statements, value } = load("row", "col", width, "i * " + width + "u");
    const place = placeOf(statements, cols / width, (v) => group.param(v), width);
    return { statements: `let i = ${index};\n${place}\n${statements}`, value };
  };
  // Emitting once each way fills the bindings and params, which the caller reads first.
  load("r", "c", group.width);
  loadLinear("i");
  return {
    parts: {
      bindings: group.bindings,
      params: group.params,
      values: group.values,
      functions: "",
      usesRun: group.usesRun,
    },
    operands: group.operands,
    load: (row, col, width) => load(row, col, width),
    loadLinear,
    width: group.width,
  };
}
