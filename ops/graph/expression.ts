/**
 * What a pointwise operation computes, as a small tree: stated once, printed as WGSL by `ops/gpu/` and as
 * WebAssembly by `ops/cpu/`.
 *
 * A tree may share parts; a printer computes a shared part once.
 *
 * @module
 */

/** Type of an expression: a 32-bit float, an unsigned 32-bit integer, or a condition. */
export type ExpressionType = "f32" | "u32" | "bool";

/** Operations of an {@link Expression}. */
export type ExpressionOp =
  // Leaves.
  | "argument" // operand number `value` of the operation
  | "literal" // the number `value`
  | "parameter" // the number `value`, handed over when the kernel is launched: the text is independent of it
  | "place" // u32: flat index of the element in the operation's output
  | "runKey" // u32: random key of the run
  | "firstSequence" // u32: index of the run's first sequence in the global batch
  // f32, or u32 where both are.
  | "add"
  | "sub"
  | "mul"
  // f32.
  | "div"
  | "neg"
  | "max"
  | "abs"
  | "sqrt"
  | "exp"
  | "log"
  | "float" // u32 → f32
  // u32.
  | "xor"
  | "shiftRight" // by the literal `value`
  // Conditions.
  | "greater" // f32
  | "equal" // two of one type
  | "atLeast" // u32
  | "select"; // (condition, if it holds, if not)

/** One expression. Made by {@link x}. */
export interface Expression {
  /** The operation. */
  readonly op: ExpressionOp;
  /** Type of its value. */
  readonly type: ExpressionType;
  /** Operands. */
  readonly args: readonly Expression[];
  /** The number of a leaf, or of a shift. */
  readonly value?: number;
}

function make(
  op: ExpressionOp,
  type: ExpressionType,
  args: readonly Expression[],
  value?: number,
): Expression {
  return { op, type, args, value };
}

const binary = (op: ExpressionOp) => (a: Expression, b: Expression): Expression =>
  make(op, a.type, [a, b]);
const unary = (op: ExpressionOp) => (a: Expression): Expression => make(op, "f32", [a]);
const condition = (op: ExpressionOp) => (a: Expression, b: Expression): Expression =>
  make(op, "bool", [a, b]);

/**
 * Constructors of expressions.
 *
 * @example
 * ```ts
 * import { x } from "./expression.ts";
 * import assert from "node:assert/strict";
 *
 * const a = x.argument(0, "f32");
 * const relu = x.max(a, x.literal(0));
 * assert.equal(relu.type, "f32");
 * ```
 */
export const x = {
  argument: (index: number, type: "f32" | "u32"): Expression => make("argument", type, [], index),
  /** A number that is part of the text. */
  literal: (value: number, type: "f32" | "u32" = "f32"): Expression =>
    make("literal", type, [], value),
  /** A u32 that differs from launch to launch of one text. */
  parameter: (value: number): Expression => make("parameter", "u32", [], value),
  place: make("place", "u32", []),
  runKey: make("runKey", "u32", []),
  firstSequence: make("firstSequence", "u32", []),
  add: binary("add"),
  sub: binary("sub"),
  mul: binary("mul"),
  div: binary("div"),
  max: binary("max"),
  neg: unary("neg"),
  abs: unary("abs"),
  sqrt: unary("sqrt"),
  exp: unary("exp"),
  log: unary("log"),
  float: unary("float"),
  xor: binary("xor"),
  shiftRight: (a: Expression, bits: number): Expression => make("shiftRight", "u32", [a], bits),
  greater: condition("greater"),
  equal: condition("equal"),
  atLeast: condition("atLeast"),
  select: (c: Expression, yes: Expression, no: Expression): Expression =>
    make("select", yes.type, [c, yes, no]),
} as const;

/** `mix32` of `random.ts` as an expression. */
export function mixed(bits: Expression): Expression {
  const step = (v: Expression, shift: number, factor: number) =>
    x.mul(x.xor(v, x.shiftRight(v, shift)), x.literal(factor, "u32"));
  const v = step(step(bits, 16, 0x21f0aaad), 15, 0xd35a2d97);
  return x.xor(v, x.shiftRight(v, 15));
}

/** An expression and all its parts, each once, operands before what uses them. */
export function partsOf(e: Expression, seen: Set<Expression> = new Set()): Set<Expression> {
  if (seen.has(e)) return seen;
  for (const part of e.args) partsOf(part, seen);
  return seen.add(e);
}

/** Sizes of the output of a pointwise operation, for the few that number its elements. */
export interface PointwiseSite {
  /** Elements. */
  size: number;
  /** Length of the first axis. */
  leading: number;
}

/** What a pointwise primitive computes. */
export interface PointwiseRule<A> {
  /** One element of the result, from those of the inputs. */
  express(args: readonly Expression[], attrs: A, site: PointwiseSite): Expression;
}
