/**
 * Writes SentencePiece models, so that tests have small ones: the protocol buffer, and normalisation
 * rules as a double array.
 */
import type { PieceType } from "../../../tasks/tokenizer/sentencepiece.ts";

const utf8 = new TextEncoder();
const TYPES = ["normal", "unknown", "control", "userDefined", "unused", "byte"];

/** What a model is made of; numbers stand for the fields of the trainer's and normaliser's specs. */
export interface ModelParts {
  pieces: readonly (readonly [piece: string, score: number, type?: PieceType])[];
  rules?: Readonly<Record<string, string>>;
  trainer?: Readonly<Record<number, number>>;
  normalizer?: Readonly<Record<number, number>>;
}

/** The bytes of a model file. */
export function modelBytes({ pieces, rules, trainer = {}, normalizer = {} }: ModelParts) {
  const flags = (numbers: Readonly<Record<number, number>>) =>
    Object.entries(numbers).flatMap(([field, value]) => [...varint(8 * Number(field)), value]);
  return Uint8Array.from([
    ...pieces.flatMap(([piece, score, type = "normal"]) =>
      delimited(1, [
        ...delimited(1, utf8.encode(piece)),
        ...varint(8 * 2 + 5),
        ...new Uint8Array(Float32Array.of(score).buffer),
        ...varint(8 * 3),
        TYPES.indexOf(type) + 1,
      ])
    ),
    ...delimited(2, flags(trainer)),
    ...delimited(3, [
      ...delimited(1, utf8.encode("test")),
      ...(rules ? delimited(2, charsmapBytes(rules)) : []),
      ...flags(normalizer),
    ]),
  ]);
}

function delimited(field: number, bytes: Iterable<number>): number[] {
  const content = [...bytes];
  return [...varint(8 * field + 2), ...varint(content.length), ...content];
}

function varint(value: number): number[] {
  return value < 128 ? [value] : [value % 128 + 128, ...varint(Math.floor(value / 128))];
}

/** Normalisation rules as SentencePiece stores them; each node has 256 units to itself. */
export function charsmapBytes(rules: Readonly<Record<string, string>>): Uint8Array {
  interface Node {
    children: Map<number, Node>;
    replacement?: number;
  }
  const root: Node = { children: new Map() };
  const replacements: number[] = [];
  for (const [from, to] of Object.entries(rules)) {
    let node = root;
    for (const byte of utf8.encode(from)) {
      if (!node.children.has(byte)) node.children.set(byte, { children: new Map() });
      node = node.children.get(byte)!;
    }
    node.replacement = replacements.length;
    replacements.push(...utf8.encode(to), 0);
  }
  const units: number[] = [];
  let blocks = 1;
  const place = (node: Node, at: number, label: number) => {
    const base = 256 * blocks++;
    const leaf = node.replacement !== undefined;
    units[at] = (at ^ base) << 10 | Number(leaf) << 8 | label;
    if (leaf) units[base] = 2 ** 31 + node.replacement!;
    for (const [byte, child] of node.children) place(child, base ^ byte, byte);
  };
  place(root, 0, 0);
  const trie = Uint32Array.from({ length: 256 * blocks }, (_, i) => units[i] ?? 0);
  const bytes = new Uint8Array(trie.buffer);
  return Uint8Array.from([
    ...new Uint8Array(Uint32Array.of(bytes.length).buffer),
    ...bytes,
    ...replacements,
  ]);
}
