/**
 * Jinja's tests: what stands behind `is`, and what `select` and `reject` go by.
 *
 * @module
 */
import { PyDecimal } from "./decimal.ts";
import { Markup, plainText } from "./markup.ts";
import { remainder } from "./operators.ts";
import { compare, equals, isIn, str } from "./python.ts";
import { PyRange } from "./range.ts";
import { isInCase } from "./text.ts";
import {
  Callable,
  isDict,
  isFloat,
  JinjaError,
  Lazy,
  numeric,
  PyObject,
  typeName,
} from "./values.ts";

/** One test: a value, and its arguments. */
export type Check = (value: unknown, args: readonly unknown[]) => boolean;

const isEqual: Check = (value, [other]) => equals(value, other);
const isUnequal: Check = (value, [other]) => !equals(value, other);
const isLess: Check = (value, [other]) => compare(value, other, "<") < 0;
const isAtMost: Check = (value, [other]) => compare(value, other, "<=") <= 0;
const isGreater: Check = (value, [other]) => compare(value, other, ">") > 0;
const isAtLeast: Check = (value, [other]) => compare(value, other, ">=") >= 0;

/** The tests by name. */
export const CHECKS: ReadonlyMap<string, Check> = new Map<string, Check>([
  ["!=", isUnequal],
  ["<", isLess],
  ["<=", isAtMost],
  ["==", isEqual],
  [">", isGreater],
  [">=", isAtLeast],
  ["boolean", (value) => typeof value === "boolean"],
  ["callable", (value) => value === undefined || value instanceof Callable],
  ["defined", (value) => value !== undefined],
  ["divisibleby", (value, [divisor]) => equals(remainder(value, divisor), 0)],
  ["eq", isEqual],
  ["equalto", isEqual],
  ["escaped", (value) => value instanceof Markup],
  ["even", (value) => equals(remainder(value, 2), 0)],
  ["false", (value) => value === false],
  ["float", isFloat],
  ["ge", isAtLeast],
  ["greaterthan", isGreater],
  ["gt", isGreater],
  ["in", (value, [container]) => isIn(value, container)],
  ["integer", (value) => typeName(value) === "int"],
  ["iterable", isIterable],
  ["le", isAtMost],
  ["lessthan", isLess],
  ["lower", (value) => isInCase(str(value), false)],
  ["lt", isLess],
  ["mapping", isDict],
  ["ne", isUnequal],
  ["none", (value) => value === null],
  ["number", (value) => numeric(value) !== undefined || value instanceof PyDecimal],
  ["odd", (value) => equals(remainder(value, 2), 1)],
  ["sameas", (value, [other]) => value === other],
  ["sequence", (value) => isIterable(value) && !(value instanceof Lazy)],
  ["string", (value) => plainText(value) !== undefined],
  ["true", (value) => value === true],
  ["undefined", (value) => value === undefined],
  ["upper", (value) => isInCase(str(value), true)],
]);

/** Those that compare the value with another; all others take no argument. */
const COMPARING: ReadonlySet<string> = new Set([
  ...["!=", "<", "<=", "==", ">", ">=", "divisibleby", "eq", "equalto", "ge", "greaterthan", "gt"],
  ...["in", "le", "lessthan", "lt", "ne", "sameas"],
]);

/** How many arguments a test takes. */
export function argumentsOf(name: string): 0 | 1 {
  return COMPARING.has(name) ? 1 : 0;
}

/** The test of a name that is only known while rendering. */
export function checkNamed(name: unknown): Check {
  const check = typeof name === "string" ? CHECKS.get(name) : undefined;
  if (!check) throw new JinjaError("TemplateRuntimeError", `no test named '${name}'`);
  return check;
}

function isIterable(value: unknown): boolean {
  return value === undefined || plainText(value) !== undefined || Array.isArray(value) ||
    isDict(value) || value instanceof Lazy || value instanceof PyRange ||
    value instanceof PyObject && value.items() !== undefined;
}
