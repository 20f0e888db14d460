/**
 * Nested values of Parquet from flat columns with levels, after the Dremel paper: a definition level says how
 * much of a path is there, a repetition level which list a value continues.
 *
 * @module
 */
import type { ParquetField } from "./parquet.ts";

/** What becomes of nested values. */
export interface Shape {
  /** A list of its items. */
  list(items: unknown[]): unknown;
  /** A map of its keys and values, in the order of the file. */
  map(entries: [key: unknown, value: unknown][]): unknown;
  /** A struct of its fields, which have the field's names. */
  struct(values: unknown[], field: ParquetField): unknown;
}

/** A column of plain values. */
export interface Level {
  /** Its number in the file. */
  readonly number: number;
  /** What the file says about it. */
  readonly field: ParquetField;
  /** Names from the root to it. */
  readonly path: readonly string[];
  /** The definition level of a value that is there. */
  readonly maxDefinition: number;
  /** In how many lists it lies. */
  readonly maxRepetition: number;
}

/** A field with its levels. */
export interface LevelNode {
  readonly field: ParquetField;
  readonly isRepeated: boolean;
  /** The levels of one that is there, and of an item if it is repeated. */
  readonly definition: number;
  readonly repetition: number;
  readonly children: readonly LevelNode[];
  /** The columns below it, or itself. */
  readonly leaves: readonly Level[];
}

/** A column's values with their levels; none of these where all are the highest. */
export interface LevelStream {
  readonly definitions?: Uint8Array;
  readonly repetitions?: Uint8Array;
  /** The values that are there, already made into what they shall be. */
  readonly values: readonly unknown[];
}

/**
 * The columns of a file with their levels.
 *
 * @throws {Error} they are nested too deeply
 */
export function levelsOf(columns: readonly ParquetField[], maxDepth: number): LevelNode[] {
  let number = 0;
  const nodeOf = (
    field: ParquetField,
    above: readonly string[],
    definitions: number,
    repetitions: number,
  ): LevelNode => {
    if (above.length > maxDepth) throw new Error(`fields nested in more than ${maxDepth} others`);
    const { repetition_type: kind, name } = field.element;
    const path = [...above, name];
    const isRepeated = kind === "REPEATED";
    const definition = definitions + (kind === "OPTIONAL" || isRepeated ? 1 : 0);
    const repetition = repetitions + (isRepeated ? 1 : 0);
    const children = field.children.map((child) => nodeOf(child, path, definition, repetition));
    const leaves = field.children.length > 0 ? children.flatMap((child) => child.leaves) : [
      { number: number++, field, path, maxDefinition: definition, maxRepetition: repetition },
    ];
    return { field, isRepeated, definition, repetition, children, leaves };
  };
  return columns.map((column) => nodeOf(column, [], 0, 0));
}

/**
 * The values of a column, one for each row.
 *
 * @param streams those of the node's leaves, in their order
 * @throws {Error} the levels contradict one another
 */
export function assemble(
  node: LevelNode,
  streams: readonly LevelStream[],
  rows: number,
  shape: Shape,
): unknown[] {
  const cursors = streams.map((stream, i) => new Cursor(stream, node.leaves[i].maxDefinition));
  const read = readerOf(node, new Map(node.leaves.map((leaf, i) => [leaf, cursors[i]])), shape);
  const values = Array.from({ length: rows }, read);
  if (cursors.some((cursor) => !cursor.isAtEnd)) throw new Error("more values than rows");
  return values;
}

class Cursor {
  #entry = 0;
  #value = 0;
  readonly #stream: LevelStream;
  readonly #max: number;
  readonly #length: number;

  constructor(stream: LevelStream, max: number) {
    this.#stream = stream;
    this.#max = max;
    const { definitions, repetitions, values } = stream;
    this.#length = (definitions ?? repetitions ?? values).length;
  }

  get isAtEnd(): boolean {
    return this.#entry === this.#length;
  }
  get definition(): number {
    return this.#stream.definitions?.[this.#entry] ?? this.#max;
  }
  /** Of the next entry; that of a new row at the end. */
  get repetition(): number {
    return this.isAtEnd ? 0 : this.#stream.repetitions?.[this.#entry] ?? 0;
  }
  next(): unknown {
    if (this.isAtEnd) throw new Error("fewer values than rows");
    const isThere = this.definition === this.#max;
    this.#entry++;
    return isThere ? this.#stream.values[this.#value++] : null;
  }
}

type Reader = () => unknown;

/** Reads what comes next of a field: one value, or all items if it is repeated. */
function readerOf(node: LevelNode, cursors: ReadonlyMap<Level, Cursor>, shape: Shape): Reader {
  const own = node.leaves.map((leaf) => cursors.get(leaf)!);
  const item = itemReader(node, own, cursors, shape);
  if (!node.isRepeated) return item;
  // Unless it is the inside of a list or a map, which take the items as they are.
  return listReader(node, own, item, shape.list);
}

function listReader(
  { definition, repetition }: LevelNode,
  own: readonly Cursor[],
  item: Reader,
  made: (items: unknown[]) => unknown,
): Reader {
  const [first] = own;
  return () => {
    const items: unknown[] = [];
    if (first.definition < definition) { for (const cursor of own) cursor.next(); }
    else do items.push(item()); while (first.repetition >= repetition);
    return made(items);
  };
}

function itemReader(
  node: LevelNode,
  own: readonly Cursor[],
  cursors: ReadonlyMap<Level, Cursor>,
  shape: Shape,
): Reader {
  const { field, definition } = node;
  if (node.children.length === 0) return () => own[0].next();
  const content = contentReader(node, cursors, shape);
  if (field.element.repetition_type === "REQUIRED") return content;
  return () => {
    if (own[0].definition >= definition) return content();
    for (const cursor of own) cursor.next();
    return null;
  };
}

/** What is inside a group that is there: a list, a map, or a struct. */
function contentReader(
  { field, children }: LevelNode,
  cursors: ReadonlyMap<Level, Cursor>,
  shape: Shape,
): Reader {
  const [child] = children;
  const own = child.leaves.map((leaf) => cursors.get(leaf)!);
  if (children.length === 1 && child.isRepeated) {
    if (isMap(field)) {
      const pair = child.children.map((part) => readerOf(part, cursors, shape));
      // A map without values is the list of its keys.
      const entry = pair.length === 2 ? () => pair.map((read) => read()) : pair[0];
      const made = pair.length === 2 ? shape.map : shape.list;
      return listReader(child, own, entry, made as (items: unknown[]) => unknown);
    }
    if (isList(field)) {
      const item = isLevelOfList(field, child)
        ? readerOf(child.children[0], cursors, shape)
        : itemReader(child, own, cursors, shape);
      return listReader(child, own, item, shape.list);
    }
  }
  const readers = children.map((part) => readerOf(part, cursors, shape));
  return () => shape.struct(readers.map((read) => read()), field);
}

function isList({ element }: ParquetField): boolean {
  return element.converted_type === "LIST" || element.logical_type?.type === "LIST";
}

function isMap({ element, children }: ParquetField): boolean {
  const { converted_type: kind, logical_type } = element;
  const says = kind === "MAP" || kind === "MAP_KEY_VALUE" || logical_type?.type === "MAP";
  return says && [1, 2].includes(children[0].children.length);
}

/**
 * Whether the repeated field of a list only stands between it and its items. Files from before there was
 * a rule have none between; the format's description says how to tell.
 */
function isLevelOfList(list: ParquetField, { field, children }: LevelNode): boolean {
  const { name } = field.element;
  return children.length === 1 && !children[0].isRepeated && name !== "array" &&
    name !== `${list.element.name}_tuple`;
}
