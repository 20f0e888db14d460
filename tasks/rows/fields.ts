/**
 * The fields that the rows of a split have together. A row that lacks one has null there, as all of its
 * rows have the same fields for Python's `datasets`; so it is with the objects inside.
 *
 * @module
 */
import { Float, type Row } from "./row.ts";

/** Names of fields, each with those of the objects in it, also in lists; plain data. */
export type Fields = readonly (readonly [name: string, inside: Fields])[];

/** Beyond this many names, objects are taken for dictionaries, whose keys are data. */
const MAX_FIELDS = 20_000;

/**
 * Collects the fields of rows.
 *
 * @example
 * ```ts
 * import { FieldUnion, withFields } from "./fields.ts";
 * import assert from "node:assert/strict";
 *
 * const union = new FieldUnion();
 * const rows = [{ a: 1, c: [{ x: 1 }, {}] }, { b: 2 }];
 * rows.forEach((row) => union.add(row));
 * assert.deepEqual(rows.map((row) => withFields(row, union.fields)), [
 *   { a: 1, c: [{ x: 1 }, { x: null }], b: null },
 *   { b: 2, a: null, c: null },
 * ]);
 * ```
 */
export class FieldUnion {
  readonly #inside = new Map<string, FieldUnion>();

  /** Adds what a row has. */
  add(row: Row): void {
    for (const name in row) {
      if (this.#inside.size > MAX_FIELDS) return;
      let inside = this.#inside.get(name);
      if (!inside) this.#inside.set(name, inside = new FieldUnion());
      inside.#addValue(row[name]);
    }
  }

  /** Adds names, of files whose rows all have them. */
  addNames(names: Iterable<string>): void {
    for (const name of names) if (!this.#inside.has(name)) this.#inside.set(name, new FieldUnion());
  }

  #addValue(value: unknown): void {
    if (Array.isArray(value)) { for (const item of value) this.#addValue(item); }
    else if (isObject(value) && this.#inside.size <= MAX_FIELDS) this.add(value);
  }

  /** What was collected. */
  get fields(): Fields {
    if (this.#inside.size > MAX_FIELDS) return [];
    return Array.from(this.#inside, ([name, inside]) => [name, inside.fields]);
  }
}

/** A row with null for each field that it lacks; the same object if it lacks none. */
export function withFields(row: Row, fields: Fields): Row {
  let changed: Record<string, unknown> | undefined;
  for (const [name, inside] of fields) {
    const value = Object.hasOwn(row, name) ? row[name] : null;
    const filled = inside.length > 0 ? filledValue(value, inside) : value;
    if (filled === value && Object.hasOwn(row, name)) continue;
    changed ??= Object.fromEntries(Object.entries(row));
    Object.defineProperty(changed, name, {
      value: filled,
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return changed ?? row;
}

function filledValue(value: unknown, fields: Fields): unknown {
  if (isObject(value)) return withFields(value, fields);
  if (!Array.isArray(value)) return value;
  const items = value.map((item) => filledValue(item, fields));
  return items.some((item, i) => item !== value[i]) ? items : value;
}

/** Whether something is an object of JSON, and not one that stands for another value. */
function isObject(value: unknown): value is Row {
  return typeof value === "object" && value !== null && !(value instanceof Float) &&
    Object.getPrototypeOf(value) === Object.prototype;
}
