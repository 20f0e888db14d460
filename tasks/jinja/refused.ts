/**
 * What Jinja2 or promptsource has and this folder has not, on purpose. Everything here is refused by its
 * name while a template is compiled; `docs/own_tasks.md` lists it.
 *
 * @module
 */

const LOADER = ": promptsource's templates have no other templates to load";

/** Statements, with the reason as the end of a sentence. */
export const REFUSED_STATEMENTS: ReadonlyMap<string, string> = new Map([
  ["autoescape", ": prompts are no HTML"],
  ["block", LOADER],
  ["extends", LOADER],
  ["from", LOADER],
  ["import", LOADER],
  ["include", LOADER],
  // Of extensions that promptsource does not load.
  ...["break", "continue", "debug", "do", "trans"].map((name) =>
    [name, ": it belongs to an extension that promptsource does not load"] as const
  ),
]);

/** Filters, with the reason as the end of a sentence. */
export const REFUSED_FILTERS: ReadonlyMap<string, string> = new Map([
  ["highlight", ": it colours promptsource's own pages"],
  ["urlize", ": prompts are no HTML"],
]);

/** Tests, with the reason as the end of a sentence. */
export const REFUSED_TESTS: ReadonlyMap<string, string> = new Map(
  ["filter", "test"].map((name) => [name, ": write what a template needs, it is there"] as const),
);
