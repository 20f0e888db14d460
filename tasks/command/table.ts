/**
 * Tables as lines of text.
 *
 * @module
 */

import { printable } from "./printable.ts";

/**
 * Columns side by side, names made {@link printable}: the first `left` ones flush left, the rest flush right.
 *
 * @example
 * ```ts
 * import { aligned } from "./table.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(aligned([["dataset", "rows"], ["rte", "277"]], 1), ["dataset  rows", "rte       277"]);
 * ```
 */
export function aligned(given: readonly (readonly string[])[], left: number): string[] {
  const rows = given.map((row) => row.map(printable));
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  const cell = (text: string, i: number) =>
    i < left ? text.padEnd(widths[i]) : text.padStart(widths[i]);
  return rows.map((row) => row.map(cell).join("  ").trimEnd());
}

/** The lines of {@link aligned} as a paragraph, indented. */
export function align(rows: readonly (readonly string[])[], left: number): string {
  return aligned(rows, left).map((line) => `  ${line}`).join("\n");
}
