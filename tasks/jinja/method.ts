/**
 * How a method takes its arguments.
 *
 * @module
 */
import { integral, JinjaError, type Named, typeName } from "./values.ts";

/** One method of a type. */
export interface Method<Owner> {
  /** What it does. */
  run(owner: Owner, args: readonly unknown[], named?: Named): unknown;
}

/**
 * A method that takes so many arguments.
 *
 * @param counts the fewest and the most
 * @param names of those that can be given by name, in their order
 */
export function method<Owner>(
  [least, most]: readonly [number, number],
  run: (owner: Owner, args: readonly unknown[]) => unknown,
  names: readonly string[] = [],
): Method<Owner> {
  return {
    run(owner, args, named = {}) {
      const given = inOrder(args, named, names);
      if (given.length < least || given.length > most) {
        const wanted = least === most ? String(least) : `${least} to ${most}`;
        throw new JinjaError("TypeError", `expected ${wanted} arguments, got ${given.length}`);
      }
      return run(owner, given);
    },
  };
}

function inOrder(args: readonly unknown[], named: Named, names: readonly string[]) {
  let given = args as unknown[];
  for (const name in named) {
    if (given === args) given = [...args];
    const at = names.indexOf(name);
    if (at < 0) throw new JinjaError("TypeError", `unexpected keyword argument '${name}'`);
    if (at < args.length) {
      throw new JinjaError("TypeError", `argument '${name}' is given by name and position`);
    }
    given[at] = named[name];
  }
  return given;
}

/** An argument that is an integer, as JavaScript's arrays and strings take it; or none. */
export function optionalInteger(value: unknown): number | undefined {
  if (value === undefined || value === null) return undefined;
  const number = integral(value);
  if (number !== undefined) return Number(number);
  throw new JinjaError("TypeError", `expected an integer, got ${typeName(value)}`);
}
