/**
 * Prints the expressions of `ops/graph/expression.ts` as WebAssembly on four lanes.
 *
 * @module
 */

import type { Expression, ExpressionOp } from "../graph/expression.ts";
import { type Code, type Func, v } from "./assembler.ts";
import { exp, log } from "./math.ts";

/** Where expressions stand: how leaves are read there. */
export interface Site {
  /** The function. */
  f: Func;
  /** The value of operand number `value`. */
  argument(e: Expression): Code;
  /** A number handed over at launch, in all lanes. */
  parameter(value: number): Code;
  /** Flat index of the element, lane by lane. */
  place(): Code;
  /** Random key of the run, in all lanes. */
  runKey(): Code;
  /** First sequence of the run, in all lanes. */
  firstSequence(): Code;
}

type Print = (e: Expression, args: Code[], site: Site) => Code;

const isFloat = (e: Expression): boolean => e.type === "f32";
const PRINT: Record<ExpressionOp, Print> = {
  argument: (e, _a, { argument }) => argument(e),
  literal: (e, _a, { f }) => isFloat(e) ? f.float(e.value!) : f.int(e.value!),
  parameter: (e, _a, site) => site.parameter(e.value!),
  place: (_e, _a, site) => site.place(),
  runKey: (_e, _a, site) => site.runKey(),
  firstSequence: (_e, _a, site) => site.firstSequence(),
  add: (e, [a, b]) => isFloat(e) ? v.add(a, b) : v.iAdd(a, b),
  sub: (e, [a, b]) => isFloat(e) ? v.sub(a, b) : v.iSub(a, b),
  mul: (e, [a, b]) => isFloat(e) ? v.mul(a, b) : v.iMul(a, b),
  div: (_e, [a, b]) => v.div(a, b),
  neg: (_e, [a]) => v.neg(a),
  max: (_e, [a, b]) => v.max(a, b),
  abs: (_e, [a]) => v.abs(a),
  sqrt: (_e, [a]) => v.sqrt(a),
  exp: (_e, [a], { f }) => exp(f, a),
  log: (_e, [a], { f }) => log(f, a),
  float: (_e, [a]) => v.fromUint(a),
  xor: (_e, [a, b]) => v.xor(a, b),
  shiftRight: (e, [a]) => v.shrU(a, e.value!),
  greater: (_e, [a, b]) => v.gt(a, b),
  equal: (e, [a, b]) => isFloat(e.args[0]) ? v.not(v.ne(a, b)) : v.iEq(a, b),
  atLeast: (_e, [a, b]) => v.iGeU(a, b),
  select: (_e, [c, a, b]) => v.select(c, a, b),
};

/** How often each part of an expression is used. */
export function usesOf(
  e: Expression,
  uses = new Map<Expression, number>(),
): Map<Expression, number> {
  const before = uses.get(e) ?? 0;
  uses.set(e, before + 1);
  if (before === 0) { for (const part of e.args) usesOf(part, uses); }
  return uses;
}

/** The value of an expression; parts that are used twice are computed once. */
export function print(root: Expression, uses: Map<Expression, number>, site: Site): Code {
  const known = new Map<Expression, Code>();
  const visit = (e: Expression): Code => {
    let code = known.get(e);
    if (!code) {
      code = PRINT[e.op](e, e.args.map(visit), site);
      // A variable that stands for itself needs no other.
      if (uses.get(e)! > 1 && !("index" in code)) code = site.f.local("v128", code);
      known.set(e, code);
    }
    return code;
  };
  return visit(root);
}

/** A text that is equal for expressions that print alike, up to the numbers handed over at launch. */
export function keyOf(root: Expression, parameter: (value: number) => number): string {
  const known = new Map<Expression, number>();
  const parts: string[] = [];
  const visit = (e: Expression): number => {
    let id = known.get(e);
    if (id === undefined) {
      const args = e.args.map(visit);
      const value = e.op === "parameter" ? parameter(e.value!) : e.value;
      id = parts.push(`${e.op}${e.type[0]}${value ?? ""}(${args})`) - 1;
      known.set(e, id);
    }
    return id;
  };
  visit(root);
  return parts.join(";");
}
