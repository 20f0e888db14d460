/**
 * Methods of Python's lists, tuples and dicts.
 *
 * @module
 */
import { spendSteps } from "./limits.ts";
import { type Method, method, optionalInteger } from "./method.ts";
import { compare, equals, iterate, repr, truthy } from "./python.ts";
import { PyDict, setKey } from "./dict.ts";
import {
  type Dict,
  entriesOf,
  hasKey,
  isDict,
  JinjaError,
  Lazy,
  lookUp,
  type Named,
  Tuple,
} from "./values.ts";

type List = unknown[];

/** Methods that change their owner: a template that calls one gets copies of its row's values. */
export const MUTATING: ReadonlySet<string> = new Set([
  ...["append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault"],
  ...["sort", "update"],
]);

/** Those of lists; tuples have the ones that change nothing, but for `copy`. */
export const LIST_METHODS: ReadonlyMap<string, Method<List>> = new Map<string, Method<List>>([
  ["append", method([1, 1], (list, [item]) => nothing(grow(list, [item])))],
  ["clear", method([0, 0], (list) => nothing(list.length = 0))],
  ["copy", method([0, 0], (list) => [...list])],
  ["count", method([1, 1], (list, [item]) => list.filter((other) => equals(other, item)).length)],
  ["extend", method([1, 1], (list, [items]) => nothing(grow(list, [...iterate(items)])))],
  ["index", method([1, 3], indexOf)],
  ["insert", method([2, 2], (list, [index, item]) => nothing(insert(list, index, item)))],
  ["pop", method([0, 1], (list, [index]) => popItem(list, optionalInteger(index)))],
  ["remove", method([1, 1], (list, [item]) => nothing(list.splice(indexOf(list, [item]), 1)))],
  ["reverse", method([0, 0], (list) => nothing(list.reverse()))],
  ["sort", { run: (list, args, named = {}) => nothing(sort(list, args, named)) }],
]);

/** Those of dicts. */
export const DICT_METHODS: ReadonlyMap<string, Method<Dict>> = new Map<string, Method<Dict>>([
  ["clear", method([0, 0], (dict) => nothing(changeable(dict).clear()))],
  ["copy", method([0, 0], (dict) => PyDict.of(entriesOf(dict)))],
  ["fromkeys", method([1, 2], (_, [keys, value = null]) => fromKeys(keys, value))],
  [
    "get",
    method(
      [1, 2],
      (dict, [key, otherwise = null]) => hasKey(dict, key) ? lookUp(dict, key) : otherwise,
    ),
  ],
  ["items", method([0, 0], (dict) => view("dict_items", entriesOf(dict).map(pairOf)))],
  ["keys", method([0, 0], (dict) => view("dict_keys", entriesOf(dict).map(([key]) => key)))],
  ["pop", method([1, 2], (dict, args) => popKey(changeable(dict), args))],
  ["popitem", method([0, 0], (dict) => popLast(changeable(dict)))],
  [
    "setdefault",
    method([1, 2], (dict, [key, otherwise = null]) => {
      if (!hasKey(dict, key)) setEntry(changeable(dict), key, otherwise);
      return lookUp(dict, key);
    }),
  ],
  [
    "update",
    { run: (dict, args, named) => nothing(updateDict(changeable(dict), args, named)) },
  ],
  ["values", method([0, 0], (dict) => view("dict_values", entriesOf(dict).map(([, v]) => v)))],
]);

function nothing(_: unknown): null {
  return null;
}

function view(type: string, items: unknown[]): Lazy {
  spendSteps(3 * items.length);
  return new Lazy(type, items);
}

function pairOf(entry: [unknown, unknown]): Tuple {
  return Tuple.from(entry);
}

// --- lists ---

function grow(list: List, items: readonly unknown[]): void {
  spendSteps(items.length);
  for (const item of items) list.push(item);
}

function indexOf(list: List, [item, start, stop]: readonly unknown[]): number {
  const place = (bound: number) => bound < 0 ? Math.max(0, bound + list.length) : bound;
  const from = place(optionalInteger(start) ?? 0);
  const end = place(optionalInteger(stop) ?? list.length);
  const at = list.findIndex((other, i) => i >= from && i < end && equals(other, item));
  if (at < 0) throw new JinjaError("ValueError", `${repr(item)} is not in list`);
  return at;
}

function insert(list: List, index: unknown, item: unknown): void {
  spendSteps(1);
  list.splice(optionalInteger(index) ?? 0, 0, item);
}

function popItem(list: List, index = -1): unknown {
  const at = index < 0 ? index + list.length : index;
  if (list.length === 0) throw new JinjaError("IndexError", "pop from empty list");
  if (at < 0 || at >= list.length) throw new JinjaError("IndexError", "pop index out of range");
  return list.splice(at, 1)[0];
}

function sort(list: List, args: readonly unknown[], named: Named): void {
  if (args.length > 0) throw new JinjaError("TypeError", "sort() takes no positional arguments");
  const wrong = Object.keys(named).find((name) => name !== "reverse" && name !== "key");
  if (wrong) throw new JinjaError("TypeError", `sort() got an unexpected argument '${wrong}'`);
  if (named.key !== undefined && named.key !== null) {
    throw new JinjaError("TypeError", "list.sort(key=...) is not supported: use the filter sort");
  }
  const sign = truthy(named.reverse) ? -1 : 1;
  list.sort((a, b) => sign * compare(a, b));
}

// --- dicts ---

/** Sets a key; an entry takes more memory than an item of a list. */
export function setEntry(dict: PyDict, key: unknown, value: unknown): void {
  spendSteps(8);
  setKey(dict, key, value);
}

/** Objects of a row are copied before a template may change them. */
function changeable(dict: Dict): PyDict {
  if (dict instanceof PyDict) return dict;
  throw new Error("a dict that a template changes was not copied");
}

function fromKeys(keys: unknown, value: unknown): PyDict {
  const dict = new PyDict();
  for (const key of iterate(keys)) setEntry(dict, key, value);
  return dict;
}

function popKey(dict: PyDict, args: readonly unknown[]): unknown {
  const [key, otherwise] = args;
  if (!dict.has(key)) {
    if (args.length > 1) return otherwise;
    throw new JinjaError("KeyError", repr(key));
  }
  const value = dict.get(key);
  dict.delete(key);
  return value;
}

function popLast(dict: PyDict): Tuple {
  const entry = entriesOf(dict).at(-1);
  if (!entry) throw new JinjaError("KeyError", "'popitem(): dictionary is empty'");
  dict.delete(entry[0]);
  return pairOf(entry);
}

function updateDict(dict: PyDict, args: readonly unknown[], named: Named = {}): void {
  if (args.length > 1) {
    throw new JinjaError("TypeError", `update expected at most 1 argument, got ${args.length}`);
  }
  for (const [key, value] of pairsOf(args[0])) setEntry(dict, key, value);
  for (const name in named) setEntry(dict, name, named[name]);
}

/** Keys and values, of a dict or of a list of pairs. */
export function pairsOf(entries: unknown): readonly (readonly unknown[])[] {
  if (isDict(entries)) return entriesOf(entries);
  return iterate(entries).map((entry, i) => {
    const pair = iterate(entry);
    if (pair.length === 2) return pair;
    throw new JinjaError(
      "ValueError",
      `dictionary update sequence element #${i} has length ${pair.length}; 2 is required`,
    );
  });
}

/** A copy of a row's value that a template may change: lists, and dicts of any form. */
export function changeableCopy(value: unknown): unknown {
  if (value instanceof Tuple) return value.map(changeableCopy);
  if (Array.isArray(value)) return value.map(changeableCopy);
  if (!isDict(value)) return value;
  return PyDict.of(entriesOf(value).map(([key, item]) => [key, changeableCopy(item)]));
}

/** Whether a list has a method; a tuple has few. */
export function hasListMethod(list: readonly unknown[], name: string): boolean {
  return LIST_METHODS.has(name) &&
    !(list instanceof Tuple && (MUTATING.has(name) || name === "copy"));
}
