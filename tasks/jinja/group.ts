/**
 * What `groupby` gives: tuples of a key and its items, which have names.
 *
 * @module
 */
import { Tuple } from "./values.ts";

/** A key and the items that have it. */
export class Group extends Tuple {
  /** `group.grouper` and `group.list`. */
  attribute(name: string): unknown {
    return name === "grouper" ? this[0] : name === "list" ? this[1] : undefined;
  }
}
