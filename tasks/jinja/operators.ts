/**
 * Operators by their symbol.
 *
 * @module
 */
import { Markup } from "./markup.ts";
import { printf } from "./printf.ts";
import {
  add,
  compare,
  divide,
  equals,
  floorDivide,
  isIn,
  modulo,
  multiply,
  power,
  subtract,
} from "./python.ts";
import { JinjaError } from "./values.ts";

/** Compares two values. */
export type Compare = (a: unknown, b: unknown) => boolean;
/** Makes one value of two. */
export type Compute = (a: unknown, b: unknown) => unknown;

/** Operators that can be chained: `a < b < c`. */
export const COMPARISONS: ReadonlyMap<string, Compare> = new Map<string, Compare>([
  ["==", equals],
  ["!=", (a, b) => !equals(a, b)],
  ["<", (a, b) => compare(a, b, "<") < 0],
  ["<=", (a, b) => compare(a, b, "<=") <= 0],
  [">", (a, b) => compare(a, b, ">") > 0],
  [">=", (a, b) => compare(a, b, ">=") >= 0],
  ["in", isIn],
  ["not in", (a, b) => !isIn(a, b)],
]);

/** `%` of a text fills it in. */
export function remainder(a: unknown, b: unknown): unknown {
  if (typeof a === "string") return printf(a, b);
  if (!(a instanceof Markup)) return modulo(a, b);
  throw new JinjaError("TypeError", "'%' on a text that is marked safe is not supported");
}

/** All others but `and` and `or`. */
export const OPERATORS: ReadonlyMap<string, Compute> = new Map<string, Compute>([
  ["+", add],
  ["-", subtract],
  ["*", multiply],
  ["/", divide],
  ["//", floorDivide],
  ["%", remainder],
  ["**", power],
]);
