/**
 * The syntax tree that {@link ./parser.ts} makes of a template.
 *
 * @module
 */

/** What has a value. */
export type Expression =
  | { type: "constant"; value: unknown }
  | { type: "name"; name: string }
  | { type: "list" | "tuple"; items: readonly Expression[] }
  | { type: "dict"; pairs: readonly (readonly [Expression, Expression])[] }
  | { type: "attribute"; owner: Expression; name: string }
  | { type: "item"; owner: Expression; key: Expression | Slice }
  | Slice
  | { type: "call"; callee: Expression; args: Arguments }
  | Filter
  | { type: "test"; operand: Expression; name: string; args: Arguments; negated: boolean }
  | { type: "unary"; operator: "-" | "+" | "not"; operand: Expression }
  | { type: "binary"; operator: string; left: Expression; right: Expression }
  | { type: "and" | "or"; left: Expression; right: Expression }
  | { type: "concat"; items: readonly Expression[] }
  | { type: "compare"; first: Expression; rest: readonly Comparison[] }
  | { type: "condition"; test: Expression; yes: Expression; no?: Expression };

/** One end of a chain: `< b` in `a < b`. */
export interface Comparison {
  /** `==`, `<`, `in`, `not in`, ... */
  operator: string;
  /** What stands behind it. */
  operand: Expression;
}

/** `start:stop:step` between brackets. */
export interface Slice {
  /** Always `"slice"`. */
  type: "slice";
  /** What is left out is undefined. */
  bounds: readonly [Expression?, Expression?, Expression?];
}

/** `operand | name(args)`. */
export interface Filter {
  /** Always `"filter"`. */
  type: "filter";
  /** What is filtered; of a block's filter undefined: the block's text. */
  operand?: Expression;
  /** The filter's name. */
  name: string;
  /** Its arguments. */
  args: Arguments;
  /** The line it stands in. */
  line: number;
}

/** The arguments of a call, a filter or a test. */
export interface Arguments {
  /** By place. */
  placed: readonly Expression[];
  /** By name. */
  named: readonly (readonly [string, Expression])[];
  /** `*list`. */
  spread?: Expression;
  /** `**dict`. */
  spreadNamed?: Expression;
}

/** No arguments. */
export const NO_ARGUMENTS: Arguments = { placed: [], named: [] };

/** What can be set: names, tuples of names, attributes of a namespace. */
export type Target =
  | { type: "name"; name: string }
  | { type: "tuple"; items: readonly Target[] }
  | { type: "attribute"; owner: Expression; name: string };

/** A statement, or text. */
export type Statement =
  | { type: "text"; text: string }
  | { type: "print"; value: Expression }
  | { type: "if"; branches: readonly Branch[]; otherwise: readonly Statement[] }
  | For
  | { type: "set"; target: Target; value: Expression }
  | { type: "set block"; target: Target; filter?: Filter; body: readonly Statement[] }
  | { type: "with"; pairs: readonly (readonly [Target, Expression])[]; body: readonly Statement[] }
  | { type: "filter block"; filter: Filter; body: readonly Statement[] }
  | { type: "macro"; macro: Macro }
  | { type: "call block"; call: Expression & { type: "call" }; caller: Macro };

/** One condition of an `if`, with what it guards. */
export interface Branch {
  /** The condition. */
  test: Expression;
  /** What is rendered if it holds. */
  body: readonly Statement[];
}

/** A loop. */
export interface For {
  /** Always `"for"`. */
  type: "for";
  /** What an item is called. */
  target: Target;
  /** What it goes through. */
  list: Expression;
  /** Which items are left out. */
  test?: Expression;
  /** Whether `loop(...)` starts it again. */
  recursive: boolean;
  /** What is repeated. */
  body: readonly Statement[];
  /** What is rendered if there was nothing to repeat for. */
  otherwise: readonly Statement[];
}

/** A part of a template with parameters. */
export interface Macro {
  /** What it is called. */
  name: string;
  /** Its parameters, with their defaults. */
  parameters: readonly { name: string; otherwise?: Expression }[];
  /** What it renders. */
  body: readonly Statement[];
}
