/**
 * Prints expressions as WGSL, one element or four at a time.
 *
 * @module
 */

import { type Expression, partsOf } from "../graph/expression.ts";
import type { DType } from "../graph/tensor.ts";

/** WGSL expression of the run's random key. */
export const RUN_KEY_WGSL = "R[0].x";
/** WGSL expression of the index, within the global batch, of the run's first sequence. */
export const RUN_SEQUENCE_WGSL = "R[0].y";

/** `mix32` of `random.ts` in WGSL, for kernels that draw random numbers themselves. */
export const HASH_WGSL = `fn mix32(x0: u32) -> u32 {
  var x = x0;
  x = (x ^ (x >> 16u)) * 0x21f0aaadu;
  x = (x ^ (x >> 15u)) * 0xd35a2d97u;
  return x ^ (x >> 15u);
}`;

/** WGSL type of a value. */
export function wgslType(dtype: DType, width: 1 | 4): string {
  return width === 1 ? dtype : dtype === "f32" ? "vec4f" : "vec4u";
}

/** Where an expression is printed. */
export interface PrintSite {
  /** Elements per value: 4 means `vec4f`, `vec4u` or `vec4<bool>`. */
  width: 1 | 4;
  /** WGSL `u32` expression: flat index of the (first) element. */
  flat: string;
  /** Prefix of the names that are declared. */
  prefix: string;
  /** Passes a number to the kernel; returns the WGSL `u32` expression that reads it. */
  param(value: number): string;
}

/** An expression in WGSL. */
export interface Printed {
  /** Declarations of what is used more than once. */
  statements: string[];
  /** The expression, of the site's width. */
  value: string;
  /** True if it reads the run block. */
  usesRun: boolean;
}

/** WGSL of a part. */
interface Part {
  text: string;
  /** False if it is the same for all elements: it stays a scalar until it meets one that is not. */
  varies: boolean;
}

const INFIX: Partial<Record<Expression["op"], string>> = {
  add: "+",
  sub: "-",
  mul: "*",
  div: "/",
  xor: "^",
  shiftRight: ">>",
  greater: ">",
  equal: "==",
  atLeast: ">=",
};

/**
 * Prints an expression.
 *
 * @param args WGSL of the operands, of the site's width
 *
 * @example
 * ```ts
 * import { printExpression } from "./wgsl.ts";
 * import { x } from "../graph/expression.ts";
 * import assert from "node:assert/strict";
 *
 * const site = { width: 4, flat: "i", prefix: "v", param: () => "P.n" } as const;
 * const relu = x.max(x.argument(0, "f32"), x.literal(0));
 * const { value } = printExpression(relu, ["a"], site);
 * assert.equal(value, "select(a, vec4f(0.0), a < vec4f(0.0))");
 * ```
 */
export function printExpression(
  e: Expression,
  args: readonly string[],
  site: PrintSite,
): Printed {
  const parts = partsOf(e);
  const uses = new Map<Expression, number>();
  for (const part of parts) {
    for (const operand of part.args) uses.set(operand, (uses.get(operand) ?? 0) + 1);
  }
  const statements: string[] = [];
  const known = new Map<Expression, Part>();
  let usesRun = false;
  const spread = ({ text, varies }: Part, type: Expression["type"]) =>
    site.width === 1 || varies ? text : `${typeOf(type, 4)}(${text})`;
  for (const part of parts) {
    usesRun ||= part.op === "runKey" || part.op === "firstSequence";
    const operands = part.args.map((a) => known.get(a)!);
    const varies = operands.some((o) => o.varies);
    const texts = operands.map((o, i) => varies ? spread(o, part.args[i].type) : o.text);
    let printed = part.args.length === 0
      ? leaf(part, args, site)
      : { text: operation(part, texts, varies ? site.width : 1), varies };
    if ((uses.get(part) ?? 0) > 1 && !/^[\w.]+$/.test(printed.text)) {
      const name = `${site.prefix}_${statements.length}`;
      statements.push(`let ${name} = ${printed.text};`);
      printed = { text: name, varies: printed.varies };
    }
    known.set(part, printed);
  }
  return { statements, value: spread(known.get(e)!, e.type), usesRun };
}

function typeOf(type: Expression["type"], width: 1 | 4): string {
  return type === "bool" ? (width === 4 ? "vec4<bool>" : "bool") : wgslType(type, width);
}

function leaf(e: Expression, args: readonly string[], { width, flat, param }: PrintSite): Part {
  switch (e.op) {
    case "argument":
      return { text: args[e.value!], varies: true };
    case "place":
      return {
        text: width === 4 ? `(vec4u(${flat}) + vec4u(0u, 1u, 2u, 3u))` : flat,
        varies: true,
      };
    case "literal":
      return { text: literal(e.value!, e.type), varies: false };
    case "parameter":
      return { text: param(e.value!), varies: false };
    case "runKey":
      return { text: RUN_KEY_WGSL, varies: false };
    case "firstSequence":
      return { text: RUN_SEQUENCE_WGSL, varies: false };
    default:
      throw new Error(`${e.op} is no leaf`);
  }
}

function operation(e: Expression, texts: readonly string[], width: 1 | 4): string {
  const infix = INFIX[e.op];
  if (e.op === "shiftRight") {
    const bits = `${e.value}u`;
    return `(${texts[0]} >> ${width === 4 ? `vec4u(${bits})` : bits})`;
  }
  if (infix) return `(${texts[0]} ${infix} ${texts[1]})`;
  switch (e.op) {
    case "neg":
      return `(-${texts[0]})`;
    case "float":
      return `${wgslType("f32", width)}(${texts[0]})`;
    case "select":
      return `select(${texts[2]}, ${texts[1]}, ${texts[0]})`;
    case "max": // WGSL's own may take NaN for the lower number, and hide that there is one
      return `select(${texts[0]}, ${texts[1]}, ${texts[0]} < ${texts[1]})`;
    default: // abs, sqrt, exp, log: WGSL's own names
      return `${e.op}(${texts.join(", ")})`;
  }
}

function literal(value: number, type: Expression["type"]): string {
  if (type === "u32") return `${value >>> 0}u`;
  if (!Number.isFinite(value)) throw new Error(`scalar: ${value} has no WGSL literal`);
  const text = Math.fround(value).toString();
  const typed = /[.e]/.test(text) ? text : text + ".0";
  return value < 0 ? `(${typed})` : typed;
}
