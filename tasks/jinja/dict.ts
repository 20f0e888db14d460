/**
 * Dicts whose keys can be any value that Python can hash.
 *
 * @module
 */
import { spend } from "./limits.ts";
import { isDict, JinjaError, numeric, PyObject, Tuple, typeName, wholeNumber } from "./values.ts";

/** A `dict` that a template makes or may change: 1, 1.0 and `True` are one key. */
export class PyDict extends Map<unknown, unknown> {
  /** What a key that is no text is known as, by what it has in common with its equals. */
  readonly #known = new Map<unknown, unknown>();

  /** A dict with these keys and values. */
  static of(entries: Iterable<readonly [unknown, unknown]>): PyDict {
    const dict = new PyDict();
    for (const [key, value] of entries) dict.set(key, value);
    return dict;
  }

  /** The key that equals one, if there is any. */
  #same(key: unknown): unknown {
    if (typeof key === "string") return key;
    const hash = hashOf(key);
    return this.#known.has(hash) ? this.#known.get(hash) : key;
  }

  /** The value of a key. */
  override get(key: unknown): unknown {
    return super.get(this.#same(key));
  }

  /** Whether it has a key. */
  override has(key: unknown): boolean {
    return super.has(this.#same(key));
  }

  /** Sets a key, which stays as it was first written. */
  override set(key: unknown, value: unknown): this {
    if (typeof key === "string") return super.set(key, value);
    const hash = hashOf(key);
    if (!this.#known.has(hash)) this.#known.set(hash, key);
    return super.set(this.#known.get(hash), value);
  }

  /** Forgets a key. */
  override delete(key: unknown): boolean {
    if (typeof key === "string") return super.delete(key);
    const same = this.#same(key);
    this.#known.delete(hashOf(key));
    return super.delete(same);
  }

  /** Forgets all keys. */
  override clear(): void {
    this.#known.clear();
    super.clear();
  }
}

/** What equal keys have in common, and no others. Lists and dicts have nothing of the kind. */
function hashOf(key: unknown): unknown {
  if (key instanceof Tuple) {
    const text = `(${key.map(hashText).join()})`;
    spend(8 + text.length);
    return text;
  }
  const number = numeric(key);
  // Beyond 2⁵³ integers are bigints; so are the floats that equal them.
  if (number !== undefined) return wholeNumber(number) ?? number;
  return key instanceof PyObject ? key.hash : key;
}

/** No two texts of different keys are the same, whatever the strings in them. */
function hashText(key: unknown): string {
  const hash = typeof key === "string" ? key : hashOf(key);
  if (key instanceof Tuple) return hash as string;
  if (typeof hash !== "object" || hash === null) return JSON.stringify(`${typeof hash} ${hash}`);
  identities.set(hash, identities.get(hash) ?? ++identityCount);
  return `#${identities.get(hash)}`;
}

const identities = new WeakMap<object, number>();
let identityCount = 0;

/** Sets a key of a dict. */
export function setKey(dict: PyDict, key: unknown, value: unknown): void {
  checkHashable(key);
  dict.set(key, value);
}

/** Lists and dicts are no keys. */
export function checkHashable(key: unknown): void {
  if (key instanceof Tuple) {
    spend(8);
    key.forEach(checkHashable);
  } else if (Array.isArray(key) || isDict(key)) {
    throw new JinjaError("TypeError", `unhashable type: '${typeName(key)}'`);
  }
}
