/**
 * Functions that every template can call: Jinja's own, and `zip`, which promptsource adds.
 *
 * @module
 */
import { pairsOf, setEntry } from "./container_methods.ts";
import { spendSteps } from "./limits.ts";
import { Cycler } from "./loop.ts";
import { iterate, str } from "./python.ts";
import { PyRange } from "./range.ts";
import { PyDict } from "./dict.ts";
import {
  Callable,
  integral,
  JinjaError,
  Lazy,
  type Named,
  Namespace,
  Tuple,
  typeName,
} from "./values.ts";

/** The functions by name. A row's field of the same name comes first. */
export const GLOBALS: ReadonlyMap<string, Callable> = new Map(
  [
    new Callable("cycler", (items) => new Cycler(items)),
    new Callable("dict", toDict),
    new Callable("joiner", joiner),
    new Callable("lipsum", () => {
      throw new JinjaError("TypeError", "lipsum is not supported: its text is random");
    }),
    new Callable("namespace", (args, named) => new Namespace(namesOf(toDict(args, named)))),
    new Callable("range", range),
    new Callable("zip", zip),
  ].map((global) => [global.name, global]),
);

function toDict([entries, ...more]: readonly unknown[], named: Named = {}): PyDict {
  if (more.length > 0) throw new JinjaError("TypeError", "dict expected at most 1 argument");
  const dict = new PyDict();
  for (const [key, value] of [...pairsOf(entries), ...Object.entries(named)]) {
    setEntry(dict, key, value);
  }
  return dict;
}

function namesOf(dict: PyDict): [string, unknown][] {
  return [...dict].map(([key, value]) => [String(key), value]);
}

/** A function that gives nothing when it is first called, and then the separator. */
function joiner([separator = ", "]: readonly unknown[], { sep = separator }: Named = {}): Callable {
  let isUsed = false;
  return new Callable("joiner", () => {
    const text = isUsed ? str(sep) : "";
    isUsed = true;
    return text;
  });
}

function range(args: readonly unknown[], named: Named = {}): PyRange {
  if (Object.keys(named).length > 0) {
    throw new JinjaError("TypeError", "range() takes no keyword arguments");
  }
  if (args.length < 1 || args.length > 3) {
    throw new JinjaError("TypeError", `range expected 1 to 3 arguments, got ${args.length}`);
  }
  const bounds = args.map((bound) => {
    const number = integral(bound);
    if (number !== undefined) return BigInt(number);
    const kind = typeName(bound);
    throw new JinjaError("TypeError", `'${kind}' object cannot be interpreted as an integer`);
  });
  const [start, stop, step = 1n] = bounds.length === 1 ? [0n, bounds[0]] : bounds;
  if (step === 0n) throw new JinjaError("ValueError", "range() arg 3 must not be zero");
  return new PyRange(start, stop, step);
}

function zip(args: readonly unknown[], { strict = false, ...others }: Named = {}): Lazy {
  const wrong = Object.keys(others)[0];
  if (wrong) throw new JinjaError("TypeError", `zip() got an unexpected argument '${wrong}'`);
  const lists = args.map(iterate);
  const length = lists.length === 0 ? 0 : Math.min(...lists.map((list) => list.length));
  if (strict && lists.some((list) => list.length > length)) {
    throw new JinjaError("ValueError", "zip() arguments have different lengths");
  }
  spendSteps(length * (1 + lists.length));
  const rows = Array.from({ length }, (_, i) => Tuple.from(lists, (list) => list[i]));
  return new Lazy("zip", rows);
}
