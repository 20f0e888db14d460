/**
 * Filters of lists and dicts.
 *
 * @module
 */
import { getAttribute, getSubscript } from "./attributes.ts";
import { checkNamed } from "./checks.ts";
import { MUTATING, setEntry } from "./container_methods.ts";
import { type Filter, filter } from "./filter.ts";
import { Group } from "./group.ts";
import { spend, spendSteps } from "./limits.ts";
import { Markup, plainText } from "./markup.ts";
import { add, compare, equals, getItem, isIn, iterate, lengthOf, str, truthy } from "./python.ts";
import { PyRange } from "./range.ts";
import { PyDict } from "./dict.ts";
import {
  type Choose,
  entriesOf,
  integral,
  isDict,
  JinjaError,
  Lazy,
  numeric,
  Tuple,
  typeName,
} from "./values.ts";

type Args = readonly unknown[];

/** The filters by name, but for `map`, which knows all others. */
export const LIST_FILTERS: readonly (readonly [string, Filter])[] = [
  ["batch", filter(["linecount", "fill_with"], batch, 1)],
  ["choice", filter([], (value, _, choose) => pick(value, choose))],
  ["dictsort", filter(["case_sensitive", "by", "reverse"], dictSort)],
  ["first", filter([], first)],
  ["groupby", filter(["attribute", "default", "case_sensitive"], groupBy, 1)],
  ["items", filter([], items)],
  ["join", filter(["d", "attribute"], join)],
  ["last", filter([], last)],
  ["list", filter([], list)],
  ["max", filter(["case_sensitive", "attribute"], (value, args) => extreme(value, args, 1))],
  ["min", filter(["case_sensitive", "attribute"], (value, args) => extreme(value, args, -1))],
  ["most_frequent", filter([], mostFrequent)],
  ["random", filter([], (value, _, choose) => lengthOf(value) ? pick(value, choose) : undefined)],
  ["reject", { run: (value, args) => select(value, undefined, args, false) }],
  ["rejectattr", { run: (value, [name, ...args]) => select(value, name ?? null, args, false) }],
  ["reverse", filter([], reverse)],
  ["select", { run: (value, args) => select(value, undefined, args, true) }],
  ["selectattr", { run: (value, [name, ...args]) => select(value, name ?? null, args, true) }],
  ["slice", filter(["slices", "fill_with"], cut, 1)],
  ["sort", filter(["reverse", "case_sensitive", "attribute"], sort)],
  ["sum", filter(["attribute", "start"], sum)],
  ["unique", filter(["case_sensitive", "attribute"], unique)],
];

function generator(items: unknown[]): Lazy {
  spendSteps(items.length);
  return new Lazy("generator", items);
}

// --- one of several ---

function pick(value: unknown, choose: Choose): unknown {
  const count = Number(lengthOf(value));
  if (count === 0) throw new JinjaError("IndexError", "Cannot choose from an empty sequence");
  if (value instanceof Lazy) {
    throw new JinjaError("TypeError", `'${value.type}' object is not subscriptable`);
  }
  const index = choose(count);
  if (!(Number.isInteger(index) && index >= 0 && index < count)) {
    throw new Error(`expected an index from 0 to ${count - 1} of choose, got ${index}`);
  }
  if (isDict(value) && !isIn(index, value)) throw new JinjaError("KeyError", String(index));
  return getItem(value, index);
}

function first(value: unknown): unknown {
  if (typeof value === "string" || value instanceof PyRange) return getItem(value, 0);
  return value instanceof Lazy ? value.next() : iterate(value)[0];
}

function last(value: unknown): unknown {
  if (typeof value === "string" || value instanceof PyRange) return getItem(value, -1);
  refuseOnce(value);
  return iterate(value).at(-1);
}

function refuseOnce(value: unknown): void {
  if (!(value instanceof Lazy) || value.isView) return;
  throw new JinjaError("TypeError", `'${value.type}' object is not reversible`);
}

function extreme(value: unknown, [caseSensitive, attribute]: Args, sign: number): unknown {
  const key = keyOf(attribute, truthy(caseSensitive));
  const all = iterate(value);
  return all.slice(1).reduce(
    (best, item) => compare(key(item), key(best), sign > 0 ? ">" : "<") * sign > 0 ? item : best,
    all[0],
  );
}

/** The items that occur most, all of them where several do; `None` if there are none. */
function mostFrequent(value: unknown): unknown {
  if (!truthy(value)) return null;
  const counts = new PyDict();
  if (isDict(value)) { for (const [key, count] of entriesOf(value)) setEntry(counts, key, count); }
  else for (const item of iterate(value)) setEntry(counts, item, add(counts.get(item) ?? 0, 1));
  if (counts.size === 0) return null;
  const most = [...counts.values()].reduce((a, b) => compare(a, b) < 0 ? b : a);
  return [...counts.keys()].filter((item) => equals(counts.get(item), most));
}

// --- lists ---

function list(value: unknown): unknown[] {
  const all = iterate(value);
  spendSteps(all.length);
  return [...all];
}

function reverse(value: unknown): unknown {
  const text = plainText(value);
  if (text !== undefined) {
    spend(4 * text.length);
    const turned = [...text].reverse().join("");
    return value instanceof Markup ? new Markup(turned) : turned;
  }
  const type = Array.isArray(value) && !(value instanceof Tuple)
    ? "list_reverseiterator"
    : "reversed";
  const turned = [...iterate(value)].reverse();
  spendSteps(turned.length);
  // What cannot be reversed is made a list first, and stays one.
  const isOnce = value instanceof Lazy && !value.isView;
  return isOnce ? turned : new Lazy(type, turned);
}

function select(value: unknown, attribute: unknown, [test, ...args]: Args, wanted: boolean): Lazy {
  if (attribute === null) {
    throw new JinjaError("FilterArgumentError", "Missing parameter for attribute name");
  }
  if (!truthy(value)) return new Lazy("generator", []); // Even of None and 0, which have no items.
  const key = keyOf(attribute, true);
  const check = test === undefined ? truthy : checkNamed(test);
  const all = iterate(value);
  spendSteps(all.length);
  return generator(all.filter((item) => check(key(item), args) === wanted));
}

function join(value: unknown, [separator = "", attribute]: Args): string {
  const all = iterate(value), between = str(separator);
  const key = attribute === undefined || attribute === null ? undefined : keyOf(attribute, true);
  const texts = all.map((item) => str(key ? key(item) : item));
  spend(texts.reduce((sum, text) => sum + text.length + between.length, 0));
  return texts.join(between);
}

function sort(value: unknown, [reverse, caseSensitive, attribute]: Args): unknown[] {
  const key = keysOf(attribute, truthy(caseSensitive));
  return sorted(iterate(value), key, truthy(reverse));
}

function sorted(
  all: readonly unknown[],
  key: (item: unknown) => unknown,
  backwards: boolean,
): unknown[] {
  const sign = backwards ? -1 : 1;
  spendSteps(3 * all.length);
  return Array.from(all, (item) => ({ item, key: key(item) }))
    .sort((a, b) => sign * compare(a.key, b.key))
    .map(({ item }) => item);
}

function sum(value: unknown, [attribute, start = 0]: Args): unknown {
  if (plainText(start) !== undefined) {
    throw new JinjaError("TypeError", "sum() can't sum strings: use join");
  }
  const key = keyOf(attribute, true);
  return iterate(value).reduce((total, item) => add(total, key(item)), start);
}

function unique(value: unknown, [caseSensitive, attribute]: Args): Lazy {
  const key = keyOf(attribute, truthy(caseSensitive));
  const known = new PyDict();
  const kept = iterate(value).filter((item) => {
    const before = known.size;
    setEntry(known, key(item), true);
    return known.size > before;
  });
  return generator(kept);
}

function batch(value: unknown, [count, fill]: Args): Lazy {
  const size = numeric(count);
  if (size === undefined) {
    throw new JinjaError("TypeError", `batch: expected a number, got ${typeName(count)}`);
  }
  const lines: unknown[][] = [];
  let line: unknown[] = [];
  for (const item of iterate(value)) {
    spendSteps(1);
    if (line.length == size) {
      lines.push(line);
      line = [];
    }
    line.push(item);
  }
  if (fill !== undefined && fill !== null && line.length > 0) padTo(line, Number(size), fill);
  return generator(line.length > 0 ? [...lines, line] : lines);
}

function padTo(list: unknown[], size: number, fill: unknown): void {
  spendSteps(Math.max(0, size - list.length));
  while (list.length < size) list.push(fill);
}

/** The filter `slice`: columns that differ by one item at most. */
function cut(value: unknown, [count, fill]: Args): Lazy {
  const all = iterate(value), columns = sizeOf(count);
  if (columns === 0) {
    throw new JinjaError("ZeroDivisionError", "integer division or modulo by zero");
  }
  const least = Math.floor(all.length / columns), longer = all.length - least * columns;
  const out: unknown[] = [];
  for (let i = 0, at = 0; i < columns; i++) {
    const size = least + (i < longer ? 1 : 0), column = Array.from(all.slice(at, at + size));
    at += size;
    spendSteps(3 + size);
    if (fill !== undefined && fill !== null && i >= longer) column.push(fill);
    out.push(column);
  }
  return generator(out);
}

function sizeOf(value: unknown): number {
  const size = integral(value);
  if (size !== undefined) return Number(size);
  throw new JinjaError("TypeError", `expected an integer, got ${typeName(value)}`);
}

// --- dicts and groups ---

function items(value: unknown): Lazy {
  if (value === undefined) return generator([]);
  if (!isDict(value)) throw new JinjaError("TypeError", "Can only get item pairs from a mapping.");
  return generator(entriesOf(value).map((entry) => Tuple.from(entry)));
}

function dictSort(value: unknown, [caseSensitive, by = "key", reverse]: Args): unknown[] {
  if (by !== "key" && by !== "value") {
    throw new JinjaError("FilterArgumentError", 'You can only sort by either "key" or "value"');
  }
  if (!isDict(value)) {
    if (value === undefined) throw new JinjaError("UndefinedError", "the value is undefined");
    throw new JinjaError("TypeError", `dictsort: expected a dict, got ${typeName(value)}`);
  }
  const at = by === "key" ? 0 : 1, fold = keyOf(undefined, truthy(caseSensitive));
  const pairs = entriesOf(value).map((entry) => Tuple.from(entry));
  return sorted(pairs, (pair) => fold((pair as Tuple)[at]), truthy(reverse));
}

function groupBy(value: unknown, [attribute, otherwise, caseSensitive]: Args): unknown[] {
  const isExact = truthy(caseSensitive);
  const instead = otherwise === null ? undefined : otherwise;
  const key = keyOf(attribute, isExact, instead), shown = keyOf(attribute, true, instead);
  const groups: { key: unknown; items: unknown[] }[] = [];
  for (const item of sorted(iterate(value), key, false)) {
    const own = key(item), group = groups.at(-1);
    if (group && equals(group.key, own)) group.items.push(item);
    else groups.push({ key: own, items: [item] });
  }
  return groups.map(({ items }) => Group.from([shown(items[0]), items]));
}

// --- what items are compared by ---

/** Themselves or an attribute ("a.b.0"), by default whatever the case. */
export function keyOf(
  attribute: unknown,
  caseSensitive: boolean,
  otherwise?: unknown,
): (item: unknown) => unknown {
  const parts = attribute === undefined || attribute === null
    ? []
    : integral(attribute) !== undefined
    ? [integral(attribute)]
    : str(attribute).split(".").map((part) => /^\d+$/.test(part) ? Number(part) : part);
  const changes = parts.find((part) => typeof part === "string" && MUTATING.has(part));
  if (changes !== undefined) {
    throw new JinjaError("TypeError", `${changes} is only supported behind a dot`);
  }
  return (item) => {
    for (const part of parts) {
      item = getSubscript(item, part);
      if (item === undefined && otherwise !== undefined) item = otherwise;
    }
    const text = caseSensitive ? undefined : plainText(item);
    return text === undefined ? item : text.toLowerCase();
  };
}

/** The same for several attributes with commas between them, as a list. */
function keysOf(attribute: unknown, caseSensitive: boolean): (item: unknown) => unknown[] {
  const names = typeof attribute === "string" ? attribute.split(",") : [attribute];
  const keys = names.map((name) => keyOf(name, caseSensitive));
  return (item) => keys.map((key) => key(item));
}

/** The filter `attr`: an attribute, and never an item. */
export function attributeOnly(value: unknown, [name]: Args): unknown {
  const text = str(name);
  if (value === undefined) throw new JinjaError("UndefinedError", "the value is undefined");
  if (MUTATING.has(text)) {
    throw new JinjaError("TypeError", `${text} is only supported behind a dot`);
  }
  const found = getAttribute(value, text);
  return isDict(value) && getItem(value, text) === found ? undefined : found;
}
