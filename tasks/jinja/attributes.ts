/**
 * What stands behind a dot or between brackets: attributes, methods, items.
 *
 * @module
 */
import type { Expression } from "./ast.ts";
import { DICT_METHODS, hasListMethod, LIST_METHODS, MUTATING } from "./container_methods.ts";
import { Group } from "./group.ts";
import { spend, spendReading, spendSteps } from "./limits.ts";
import { escaped, Markup } from "./markup.ts";
import { getItem } from "./python.ts";
import { STRING_METHODS } from "./string_methods.ts";
import {
  Callable,
  isDict,
  isFloat,
  JinjaError,
  type Named,
  numeric,
  PyFloat,
  PyObject,
  typeName,
  wholeNumber,
} from "./values.ts";

const OF_INTEGERS = [
  ...["as_integer_ratio", "bit_count", "conjugate", "denominator", "from_bytes", "imag"],
  ...["numerator", "real", "to_bytes"],
];

/** What Python's types have beyond what is supported; all else is undefined there as well. */
const UNSUPPORTED: Readonly<Record<string, readonly string[]>> = {
  str: ["format_map", "maketrans", "translate"],
  Markup: ["escape", "format_map", "maketrans", "striptags", "translate", "unescape"],
  int: OF_INTEGERS,
  bool: OF_INTEGERS,
  float: ["as_integer_ratio", "conjugate", "fromhex", "hex", "imag", "real"],
  range: ["count", "index", "start", "step", "stop"],
  generator: ["close", "gi_code", "gi_frame", "gi_running", "gi_yieldfrom", "send", "throw"],
  date: [
    ...["ctime", "fromisocalendar", "fromisoformat", "fromordinal", "fromtimestamp", "isocalendar"],
    ...["max", "min", "replace", "resolution", "timetuple", "today", "toordinal"],
  ],
  time: ["dst", "fold", "fromisoformat", "max", "min", "replace", "resolution", "tzinfo", "tzname"],
  datetime: [
    ...["astimezone", "combine", "ctime", "dst", "fold", "fromisocalendar", "fromisoformat"],
    ...["fromordinal", "fromtimestamp", "isocalendar", "max", "min", "now", "replace"],
    ...["resolution", "strptime", "timestamp", "timetuple", "timetz", "today", "toordinal"],
    ...["tzinfo", "tzname", "utcfromtimestamp", "utcnow", "utcoffset", "utctimetuple"],
  ],
  timedelta: ["max", "min", "resolution"],
  "decimal.Decimal": [
    ...["adjusted", "as_integer_ratio", "as_tuple", "canonical", "compare", "compare_signal"],
    ...["compare_total", "compare_total_mag", "conjugate", "copy_abs", "copy_negate", "copy_sign"],
    ...["exp", "fma", "from_float", "imag", "is_canonical", "is_finite", "is_infinite", "is_nan"],
    ...["is_normal", "is_qnan", "is_signed", "is_snan", "is_subnormal", "is_zero", "ln", "log10"],
    ...["logb", "logical_and", "logical_invert", "logical_or", "logical_xor", "max", "max_mag"],
    ...["min", "min_mag", "next_minus", "next_plus", "next_toward", "normalize", "number_class"],
    ...["quantize", "radix", "real", "remainder_near", "rotate", "same_quantum", "scaleb", "shift"],
    ...["sqrt", "to_eng_string", "to_integral", "to_integral_exact", "to_integral_value"],
  ],
  dict_keys: ["isdisjoint", "mapping"],
  dict_items: ["isdisjoint", "mapping"],
  dict_values: ["mapping"],
  bytes: [
    ...["capitalize", "center", "count", "endswith", "expandtabs", "find", "fromhex", "index"],
    ...["isalnum", "isalpha", "isascii", "isdigit", "islower", "isspace", "istitle", "isupper"],
    ...["join", "ljust", "lower", "lstrip", "maketrans", "partition", "removeprefix"],
    ...["removesuffix", "replace", "rfind", "rindex", "rjust", "rpartition", "rsplit", "rstrip"],
    ...["split", "splitlines", "startswith", "strip", "swapcase", "title", "translate", "upper"],
    "zfill",
  ],
};

/** What everything has in Python, and no template should ask for. */
const OF_ALL = new Set(
  ("class delattr dir doc eq format ge getattribute getstate gt hash init init_subclass le lt ne new " +
    "reduce reduce_ex repr setattr sizeof str subclasshook add contains getitem iter len mul rmul mod " +
    "dict module call code globals func self").split(" ").map((name) => `__${name}__`),
);

/**
 * `value.name`: a method, an attribute, or a dict's key.
 *
 * @param node the value in the template, for the message
 * @throws {JinjaError} if the value is undefined
 */
export function getAttribute(value: unknown, name: string, node?: Expression): unknown {
  if (value === undefined) throw isUndefined(node);
  if (OF_ALL.has(name)) throw notSupported(value, name);
  if (isDict(value)) {
    const method = DICT_METHODS.get(name);
    if (!method) return getItem(value, name);
    return new Callable(name, (args, named) => method.run(value, args, named));
  }
  const own = value instanceof PyObject || value instanceof Group
    ? value.attribute(name)
    : undefined;
  if (own !== undefined) return own;
  if (hasMethod(value, name)) {
    return new Callable(name, (args, named) => callMethod(value, name, node, args, named));
  }
  if (UNSUPPORTED[typeName(value)]?.includes(name)) throw notSupported(value, name);
  return undefined;
}

/**
 * `value[key]`: an item, or else what stands behind a dot.
 *
 * @param node the value in the template, for the message
 * @param isFixed whether the template names the key, so that it was seen while compiling
 * @throws {JinjaError} if the value is undefined
 */
export function getSubscript(
  value: unknown,
  key: unknown,
  node?: Expression,
  isFixed = false,
): unknown {
  if (value === undefined) throw isUndefined(node);
  const item = getItem(value, key);
  if (item !== undefined) return item;
  const name = key instanceof Markup ? key.value : key;
  if (typeof name !== "string") return undefined;
  const attribute = getAttribute(value, name, node);
  if (attribute instanceof Callable && MUTATING.has(name) && !isFixed) {
    throw new JinjaError("TypeError", `${typeName(value)}.${name} is only supported behind a dot`);
  }
  return attribute;
}

/** `value.name(...)`, without an object for the method. */
export function callMethod(
  value: unknown,
  name: string,
  node: Expression | undefined,
  args: readonly unknown[],
  named?: Named,
): unknown {
  spendSteps(1);
  if (typeof value === "string") {
    const method = STRING_METHODS.get(name);
    if (method) {
      spendReading(value);
      const result = method.run(value, args, named);
      if (typeof result === "string") spend(result.length);
      return result;
    }
  } else if (Array.isArray(value) && hasListMethod(value, name)) {
    // All others go through the list, or move a part of it.
    if (name !== "append" && !(name === "pop" && args.length === 0)) spend(value.length >> 3);
    return LIST_METHODS.get(name)!.run(value, args, named);
  } else if (value instanceof Markup && STRING_METHODS.has(name)) {
    return ofMarkup(value, name, args, named);
  } else if (isNumber(value) && hasMethod(value, name)) return ofNumber(value, name);
  const found = getAttribute(value, name, node);
  if (found === undefined) {
    throw new JinjaError(
      "UndefinedError",
      `'${typeName(value)}' object has no attribute '${name}'`,
    );
  }
  return callValue(found, node, args, named);
}

/** `value(...)`. */
export function callValue(
  value: unknown,
  node: Expression | undefined,
  args: readonly unknown[],
  named?: Named,
): unknown {
  spendSteps(1);
  if (value instanceof Callable) return value.call(args, named);
  if (value === undefined) throw isUndefined(node);
  throw new JinjaError("TypeError", `'${typeName(value)}' object is not callable`);
}

function isNumber(value: unknown): boolean {
  return numeric(value) !== undefined;
}

function hasMethod(value: unknown, name: string): boolean {
  if (typeof value === "string" || value instanceof Markup) return STRING_METHODS.has(name);
  if (Array.isArray(value)) return hasListMethod(value, name);
  return isNumber(value) && name === (isFloat(value) ? "is_integer" : "bit_length");
}

function ofNumber(value: unknown, name: string): unknown {
  const number = numeric(value)!;
  if (name === "is_integer") return wholeNumber(number) !== undefined;
  const size = BigInt(number) < 0n ? -BigInt(number) : BigInt(number);
  return size === 0n ? 0 : size.toString(2).length;
}

/** Of text that is safe in HTML: what comes out is so, and what goes in is escaped. */
function ofMarkup(value: Markup, name: string, args: readonly unknown[], named?: Named): unknown {
  if (["encode", "format"].includes(name)) throw notSupported(value, name);
  const safe = (arg: unknown): unknown =>
    typeof arg === "string" && ["join", "replace"].includes(name)
      ? escaped(arg)
      : Array.isArray(arg)
      ? arg.map(safe)
      : arg;
  const result = STRING_METHODS.get(name)!.run(value.value, args.map(safe), named);
  const marked = (part: unknown) => typeof part === "string" ? new Markup(part) : part;
  return Array.isArray(result) ? result.map(marked) : marked(result);
}

function notSupported(value: unknown, name: string): JinjaError {
  const type = value instanceof PyFloat ? "float" : typeName(value);
  return new JinjaError("TypeError", `${type}.${name} is not supported`);
}

function isUndefined(node: Expression | undefined): JinjaError {
  return new JinjaError("UndefinedError", `${node ? `'${describe(node)}'` : "it"} is undefined`);
}

/** An expression as a message names it. */
export function describe(node: Expression): string {
  if (node.type === "name") return node.name;
  if (node.type === "attribute") return `${describe(node.owner)}.${node.name}`;
  if (node.type !== "item") return "the expression";
  const key = node.key.type === "constant" ? node.key.value : undefined;
  const shown = typeof key === "string" ? JSON.stringify(key) : String(key ?? "…");
  return `${describe(node.owner)}[${shown}]`;
}
