/**
 * Macros: parts of a template with parameters.
 *
 * @module
 */
import { spend, spendSteps } from "./limits.ts";
import type { Frame, Read, Scope, Write } from "./scope.ts";
import { PyDict } from "./dict.ts";
import { Callable, JinjaError, type Named, Tuple } from "./values.ts";

/** A macro, compiled. */
export interface CompiledMacro {
  /** What it is called. */
  name: string;
  /** Its parameters, with their defaults. */
  parameters: readonly { name: string; otherwise?: Read; write: Write }[];
  /** Which of `varargs`, `kwargs` and `caller` it uses. */
  used: ReadonlyMap<string, Write>;
  /** What it renders. */
  body: (frame: Frame) => string;
  /** Its own variables. */
  scope: Scope;
}

/** A macro that can be called. */
class PyMacro extends Callable {
  /** Python's name of its type. */
  override readonly type = "Macro";

  /** `<Macro 'name'>`. */
  override repr(): string {
    return `<Macro '${this.name}'>`;
  }
}

/** Makes the macro where a template has come to it: it sees the variables around. */
export function macroOf(macro: CompiledMacro): Read {
  return (outer) => new PyMacro(macro.name, (args, named = {}) => run(macro, outer, args, named));
}

function run(
  { name, parameters, used, body, scope }: CompiledMacro,
  outer: Frame,
  args: readonly unknown[],
  named: Named,
): string {
  spendSteps(4);
  const frame = scope.frame(outer), rest = new Map(Object.entries(named));
  for (const [i, parameter] of parameters.entries()) {
    let value = i < args.length ? args[i] : undefined;
    if (rest.has(parameter.name)) {
      if (i < args.length) {
        throw new JinjaError("TypeError", `macro '${name}' got two values for '${parameter.name}'`);
      }
      value = rest.get(parameter.name);
      rest.delete(parameter.name);
    } else if (i >= args.length) value = parameter.otherwise?.(frame);
    parameter.write(frame, value);
  }
  const caller = used.get("caller");
  caller?.(frame, rest.get("caller"));
  if (caller) rest.delete("caller");
  extras(name, parameters.length, used, frame, args.slice(parameters.length), rest);
  scope.enter(frame);
  const text = body(frame);
  spend(text.length);
  return text;
}

/** What there is beyond the parameters. */
function extras(
  name: string,
  most: number,
  used: CompiledMacro["used"],
  frame: Frame,
  args: readonly unknown[],
  named: ReadonlyMap<string, unknown>,
): void {
  const kwargs = used.get("kwargs"), varargs = used.get("varargs");
  if (named.size > 0 && !kwargs) {
    const [first] = named.keys();
    throw new JinjaError("TypeError", `macro '${name}' takes no keyword argument '${first}'`);
  }
  if (args.length > 0 && !varargs) {
    throw new JinjaError("TypeError", `macro '${name}' takes not more than ${most} argument(s)`);
  }
  kwargs?.(frame, PyDict.of(named));
  varargs?.(frame, Tuple.from(args));
}
