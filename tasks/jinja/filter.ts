/**
 * What a filter is, and how it takes its arguments.
 *
 * @module
 */
import { type Choose, JinjaError, type Named } from "./values.ts";

/** One filter. */
export interface Filter {
  /** Names of its arguments, in order; none if it takes any number of them. */
  parameters?: readonly string[];
  /** How many of them it cannot do without. */
  needed?: number;
  /** What it does. A filter with parameters gets the arguments in that order, and no `named`. */
  run(value: unknown, args: readonly unknown[], choose: Choose, named: Named): unknown;
}

/** A filter with these arguments. */
export function filter(parameters: readonly string[], run: Filter["run"], needed = 0): Filter {
  return { parameters, run, needed };
}

/** The arguments of a filter in the order of its parameters. */
export function inOrder(
  name: string,
  { parameters = [], needed = 0 }: Filter,
  args: readonly unknown[],
  named: Named,
): unknown[] {
  const wrong = Object.keys(named).find((key) => !parameters.includes(key));
  if (wrong) throw new JinjaError("TypeError", `${name} got an unexpected argument '${wrong}'`);
  if (args.length > parameters.length) {
    const most = `${parameters.length} argument${parameters.length === 1 ? "" : "s"}`;
    throw new JinjaError("TypeError", `${name} takes at most ${most}, got ${args.length}`);
  }
  const given = parameters.map((parameter, i) => {
    if (i >= args.length) return named[parameter];
    if (!Object.hasOwn(named, parameter)) return args[i];
    throw new JinjaError("TypeError", `${name} got two values for argument '${parameter}'`);
  });
  const missing = parameters.slice(0, needed).find((parameter, i) =>
    i >= args.length && !Object.hasOwn(named, parameter)
  );
  if (missing) throw new JinjaError("TypeError", `${name} misses the argument '${missing}'`);
  return given;
}
