/**
 * What values that come out of a file must be: types and ranges, field by field. The first that does not
 * fit is named, with what was expected.
 *
 * ```ts
 * import { expectFields, fields, list, text, whole } from "./fields.ts";
 * import assert from "node:assert/strict";
 *
 * const run = fields({ update: whole(), place: fields({ epoch: whole() }) }, { names: list(text) });
 * expectFields({ update: 3, place: { epoch: 0 } }, run, "training.json");
 * assert.throws(() => expectFields({ update: 3, place: { epoch: -1 } }, run, "training.json"), {
 *   message: "training.json: place.epoch: expected a whole number of at least 0, got -1",
 * });
 * ```
 *
 * @module
 */
import { isRecord, shown } from "../../models/formats/untrusted.ts";
import { UserError } from "../../ops/graph/errors.ts";

/** What is wrong with a value: where in it, what was expected there, and what came. */
export interface Fault {
  /** Field, or fields from the outermost to the innermost; empty for the value itself. */
  at: readonly string[];
  /** "a whole number of at least 0". */
  expected: string;
  /** What is there instead. */
  got: unknown;
}

/** Looks at a value; says what is wrong with it, or nothing. */
export type Check = (value: unknown) => Fault | undefined;

/** A check without parts. */
function plain(expected: string, fits: (value: unknown) => boolean): Check {
  return (value) => fits(value) ? undefined : { at: [], expected, got: value };
}

/** A whole number within bounds. */
export function whole(min = 0, max = Number.MAX_SAFE_INTEGER): Check {
  const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
  return plain(
    `a whole number ${range}`,
    (x) => Number.isSafeInteger(x) && x as number >= min && x as number <= max,
  );
}

/** A number that is finite, of at least so much. */
export function finite(min = -Infinity): Check {
  const expected = min === -Infinity ? "a number" : `a number of at least ${min}`;
  return plain(expected, (x) => Number.isFinite(x) && x as number >= min);
}

/** A text. */
export const text: Check = plain("a text", (x) => typeof x === "string");

/** Nothing. */
export const nothing: Check = plain("null", (x) => x === null);

/** True or false. */
export const truth: Check = plain("true or false", (x) => typeof x === "boolean");

/** One of some texts. */
export function oneOf(choices: readonly string[]): Check {
  return plain(`one of ${choices.join(", ")}`, (x) => choices.includes(x as string));
}

/** Any value. */
export const anything: Check = () => undefined;

/** One check or the other: what the first says counts. */
export function either(first: Check, second: Check): Check {
  return (value) => {
    const fault = first(value);
    return fault && second(value) ? fault : undefined;
  };
}

/** A list whose values all fit. */
export function list(each: Check, least = 0): Check {
  return (value) => {
    if (!Array.isArray(value) || value.length < least) {
      return { at: [], expected: least ? `a list of at least ${least}` : "a list", got: value };
    }
    return firstFault(value.entries(), () => each);
  };
}

/** An object of any names whose values all fit. */
export function named(each: Check): Check {
  return (value) => {
    if (!isRecord(value)) return { at: [], expected: "an object", got: value };
    return firstFault(Object.entries(value), () => each);
  };
}

/** An object with fields of its own; others are not looked at. */
export function fields(
  needed: Readonly<Record<string, Check>>,
  optional: Readonly<Record<string, Check>> = {},
): Check {
  return (value) => {
    if (!isRecord(value)) return { at: [], expected: "an object", got: value };
    const present = Object.keys(optional).filter((name) => Object.hasOwn(value, name));
    const own = (name: string) => Object.hasOwn(value, name) ? value[name] : undefined;
    const all = { ...needed, ...optional };
    return firstFault(
      [...Object.keys(needed), ...present].map((name) => [name, own(name)] as const),
      (name) => all[name],
    );
  };
}

function firstFault<Name extends string | number>(
  values: Iterable<readonly [Name, unknown]>,
  checkOf: (name: Name) => Check,
): Fault | undefined {
  for (const [name, value] of values) {
    const fault = checkOf(name)(value);
    if (fault) return { ...fault, at: [String(name), ...fault.at] };
  }
  return undefined;
}

/**
 * Fails unless a value fits.
 *
 * @param where the file, for the message
 * @param advice what to do about it
 * @throws {UserError} naming the file and the field
 */
export function expectFields(value: unknown, check: Check, where: string, advice = ""): void {
  const fault = check(value);
  if (!fault) return;
  const place = fault.at.length > 0 ? `${shown(fault.at.join("."))}: ` : "";
  throw new UserError(
    `${where}: ${place}expected ${fault.expected}, got ${shown(fault.got)}` +
      (advice && `; ${advice}`),
  );
}
