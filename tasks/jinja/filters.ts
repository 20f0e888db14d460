/**
 * All of Jinja's filters, and the two that promptsource adds: `choice` and `most_frequent`.
 *
 * @module
 */
import { type Filter, filter, inOrder } from "./filter.ts";
import { spendSteps } from "./limits.ts";
import { attributeOnly, keyOf, LIST_FILTERS } from "./list_filters.ts";
import { NUMBER_FILTERS } from "./number_filters.ts";
import { iterate, lengthOf, truthy } from "./python.ts";
import { TEXT_FILTERS } from "./text_filters.ts";
import { type Choose, JinjaError, Lazy, type Named } from "./values.ts";

type Args = readonly unknown[];

/** The filters by name. */
export const FILTERS: ReadonlyMap<string, Filter> = new Map<string, Filter>(
  [
    ["attr", filter(["name"], attributeOnly, 1)] as const,
    ["count", filter([], lengthOf)] as const,
    ["d", filter(["default_value", "boolean"], otherwise)] as const,
    ["default", filter(["default_value", "boolean"], otherwise)] as const,
    ["length", filter([], lengthOf)] as const,
    ["map", { run: map }] as const,
    ...LIST_FILTERS,
    ...NUMBER_FILTERS,
    ...TEXT_FILTERS,
  ].sort(([a], [b]) => a < b ? -1 : 1),
);

function otherwise(value: unknown, [instead = "", boolean]: Args): unknown {
  return value === undefined || (truthy(boolean) && !truthy(value)) ? instead : value;
}

function map(value: unknown, args: Args, choose: Choose, named: Named): Lazy {
  if (!truthy(value)) return new Lazy("generator", []);
  const items = iterate(value);
  spendSteps(items.length);
  if (args.length === 0 && Object.hasOwn(named, "attribute")) {
    const wrong = Object.keys(named).find((name) => name !== "attribute" && name !== "default");
    if (wrong) {
      throw new JinjaError("FilterArgumentError", `Unexpected keyword argument '${wrong}'`);
    }
    const instead = named.default === null ? undefined : named.default;
    return new Lazy("generator", items.map(keyOf(named.attribute, true, instead)));
  }
  const [name, ...rest] = args;
  if (args.length === 0) {
    throw new JinjaError("FilterArgumentError", "map requires a filter argument");
  }
  const inner = typeof name === "string" ? FILTERS.get(name) : undefined;
  if (!inner) throw new JinjaError("TemplateRuntimeError", `no filter named '${name}'`);
  const ordered = inner.parameters ? inOrder(String(name), inner, rest, named) : rest;
  return new Lazy("generator", items.map((item) => inner.run(item, ordered, choose, named)));
}
