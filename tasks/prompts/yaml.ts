/**
 * YAML as PyYAML reads it: the types of YAML 1.1 by PyYAML's own patterns, and the last of equal keys wins.
 * The text is parsed by the package `yaml`; what a plain scalar is, is decided here.
 *
 * @module
 */
import { type Document, isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument } from "yaml";
import { UserError } from "../../ops/graph/errors.ts";
import { PyDate, PyDateTime } from "../jinja/moments.ts";
import { toFloat } from "../jinja/values.ts";

/** A mapping, with the line that each key stands in. */
export class YamlMap {
  /** Values by key, in the order in which keys first came. */
  readonly entries: Map<string, { value: unknown; line: number }> = new Map();

  /** A key's value; `undefined` if there is no such key. */
  get(key: string): unknown {
    return this.entries.get(key)?.value;
  }

  /** Whether there is a key. */
  has(key: string): boolean {
    return this.entries.has(key);
  }
}

/** Tags that mean no more than the value that they stand before. */
const PLAIN_TAGS = new Set([
  ...["!", "!Template", "!TemplateMetadata", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"],
]);
const STANDARD = "tag:yaml.org,2002:";

/** What a YAML file holds that no text may: PyYAML's reader stops at these. */
const UNPRINTABLE = /[^\t\n\r -~\u0085\u00a0-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/u;

/**
 * Reads one YAML document: texts, numbers, booleans, null, dates, arrays and {@link YamlMap}s. What has an
 * anchor is read once, and shared.
 *
 * @param file for messages
 * @throws {UserError} naming file and line
 *
 * @example
 * ```ts
 * import { parseYaml, YamlMap } from "./yaml.ts";
 * import assert from "node:assert/strict";
 *
 * const map = parseYaml("a: yes\nb: 1:30\na: no\n", "x.yaml") as YamlMap;
 * assert.deepEqual([map.get("a"), map.get("b")], [false, 90]);
 * ```
 */
export function parseYaml(source: string, file: string): unknown {
  const text = source.replace(/^\ufeff/, "").replace(/\r\n?|\u0085/g, "\n");
  const bad = UNPRINTABLE.exec(text);
  if (bad) {
    const line = text.slice(0, bad.index).split("\n").length;
    const code = bad[0].codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0");
    throw new UserError(
      `${file}:${line}: not YAML: the character U+${code}; write it as an escape`,
    );
  }
  const lines = new LineCounter();
  try {
    const document = parseDocument(text, {
      ...{ lineCounter: lines, logLevel: "error", version: "1.1", schema: "failsafe" },
      ...{ merge: false, uniqueKeys: false, stringKeys: false },
    });
    const [error] = document.errors;
    if (error) {
      const line = error.linePos?.[0].line ?? 1;
      throw new UserError(`${file}:${line}: not YAML: ${error.message.split(" at line ")[0]}`);
    }
    return new Reader(document, lines, file).value(document.contents);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new UserError(`${file}: not YAML that can be read: it is nested too deeply`);
  }
}

/** Makes values of a document's nodes. */
class Reader {
  readonly #anchors = new Map<unknown, unknown>();
  readonly #open = new Set<unknown>();

  constructor(
    readonly document: Document,
    readonly lines: LineCounter,
    readonly file: string,
  ) {}

  value(node: unknown): unknown {
    if (node === null || node === undefined) return null;
    if (this.#anchors.has(node)) return this.#anchors.get(node);
    if (this.#open.has(node)) throw this.#fault(node, "an alias refers to what it is part of");
    this.#open.add(node);
    const value = this.#read(node);
    this.#open.delete(node);
    if ((node as { anchor?: string }).anchor) this.#anchors.set(node, value);
    return value;
  }

  #read(node: unknown): unknown {
    if (isAlias(node)) {
      const target = node.resolve(this.document);
      if (!target) throw this.#fault(node, `no anchor '&${node.source}' before the alias`);
      return this.value(target);
    }
    const tag = (node as { tag?: string }).tag ?? "";
    if (isScalar(node)) return this.#scalar(node, tag);
    if (tag !== "" && !PLAIN_TAGS.has(tag)) {
      throw this.#fault(node, `the tag ${tag} is not supported`);
    }
    if (isSeq(node)) return node.items.map((item) => this.value(item));
    return this.#map(node);
  }

  #scalar(node: { value: unknown; source?: string; type?: string }, tag: string): unknown {
    const text = node.source ?? String(node.value ?? "");
    if (tag === "" || tag === "?") {
      return node.type === "PLAIN" ? this.#plain(node, text) : String(node.value);
    }
    if (tag === `${STANDARD}str` || tag === "!") return String(node.value ?? "");
    const kind = tag.replace(STANDARD, "");
    const isWhole = kind === "float" && /^[-+]?\d+$/.test(text);
    const reader = READERS.find((reader) => reader.kind === kind);
    const value = reader?.pattern.test(text) || isWhole ? reader!.read(text) : undefined;
    if (value === undefined) throw this.#fault(node, `the tag ${tag} is not supported here`);
    return value;
  }

  #plain(node: unknown, text: string): unknown {
    const reader = READERS.find(({ pattern }) => pattern.test(text));
    if (!reader) return text;
    const value = reader.read(text);
    if (value === undefined) throw this.#fault(node, `put '${text}' in quotes`);
    return value;
  }

  /** What `<<` names comes first; a later key of the same name overwrites, and keeps the place. */
  #map(node: unknown): YamlMap {
    const map = new YamlMap();
    if (!isMap(node)) throw this.#fault(node, "expected keys");
    for (const { key, value } of node.items) if (isMerge(key)) this.#merge(map, value);
    for (const { key, value } of node.items) {
      if (isMerge(key)) continue;
      const name = this.value(key);
      if (typeof name === "object" && name !== null) {
        throw this.#fault(key, "a key is no plain value");
      }
      map.entries.set(String(name), { value: this.value(value), line: this.lineOf(key) });
    }
    return map;
  }

  #merge(map: YamlMap, node: unknown): void {
    const value = this.value(node), maps = Array.isArray(value) ? value : [value];
    // Of several the first wins.
    for (const other of [...maps].reverse()) {
      if (!(other instanceof YamlMap)) throw this.#fault(node, "expected keys behind '<<'");
      for (const [key, entry] of other.entries) map.entries.set(key, entry);
    }
  }

  lineOf(node: unknown): number {
    const start = (node as { range?: [number, number, number] } | null)?.range?.[0] ?? 0;
    return this.lines.linePos(start).line;
  }

  #fault(node: unknown, message: string): UserError {
    return new UserError(
      `${this.file}:${this.lineOf(node)}: not YAML that can be read: ${message}`,
    );
  }
}

function isMerge(key: unknown): boolean {
  return isScalar(key) && key.type === "PLAIN" && key.source === "<<";
}

// --- what a plain scalar is ---

interface PlainReader {
  kind: string;
  pattern: RegExp;
  read(text: string): unknown;
}

/** PyYAML's types in the order in which it tries them. */
const READERS: readonly PlainReader[] = [
  {
    kind: "bool",
    pattern: /^(?:[Yy]es|YES|[Nn]o|NO|[Tt]rue|TRUE|[Ff]alse|FALSE|[Oo]n|ON|[Oo]ff|OFF)$/,
    read: (text) => /^(?:y|t|on)/i.test(text),
  },
  {
    kind: "float",
    pattern:
      /^(?:[-+]?\d[\d_]*\.[\d_]*(?:[eE][-+]\d+)?|\.\d[\d_]*(?:[eE][-+]\d+)?|[-+]?\d[\d_]*(?::[0-5]?\d)+\.[\d_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$/,
    read: (text) => toFloat(readFloat(text)),
  },
  {
    kind: "int",
    pattern: /^[-+]?(?:0b[01_]+|0[0-7_]+|0|[1-9][\d_]*|0x[\da-fA-F_]+|[1-9][\d_]*(?::[0-5]?\d)+)$/,
    read: readInteger,
  },
  { kind: "merge", pattern: /^<<$/, read: () => undefined },
  { kind: "null", pattern: /^(?:~|null|Null|NULL|)$/, read: () => null },
  {
    kind: "timestamp",
    pattern:
      /^\d{4}-\d\d-\d\d$|^\d{4}-\d\d?-\d\d?(?:[Tt]|[ \t]+)\d\d?:\d\d:\d\d(?:\.\d*)?(?:[ \t]*(?:Z|[-+]\d\d?(?::\d\d)?))?$/,
    read: readMoment,
  },
  { kind: "value", pattern: /^=$/, read: () => undefined },
];

function readInteger(source: string): number | bigint | undefined {
  const text = source.replaceAll("_", ""), negative = text.startsWith("-");
  const digits = text.replace(/^[-+]/, "");
  let value: bigint;
  if (digits.includes(":")) {
    value = digits.split(":").reduce((sum, part) => sum * 60n + BigInt(part), 0n);
  } else if (/^0[bx]/.test(digits)) {
    if (digits.length === 2) return undefined; // Python's int() fails on it.
    value = BigInt(digits);
  } else if (/^0\d/.test(digits)) value = BigInt(`0o${digits}`);
  else value = BigInt(digits);
  const signed = negative ? -value : value, number = Number(signed);
  return Number.isSafeInteger(number) ? number : signed;
}

function readFloat(source: string): number {
  const text = source.replaceAll("_", "").toLowerCase();
  const sign = text.startsWith("-") ? -1 : 1, digits = text.replace(/^[-+]/, "");
  if (digits === ".inf") return sign * Infinity;
  if (digits === ".nan") return NaN;
  return sign * digits.split(":").reduce((sum, part) => sum * 60 + Number(part), 0);
}

/** `undefined` for days that no calendar has. */
function readMoment(text: string): PyDate | PyDateTime | undefined {
  const [, year, month, day, hour, minute, second, fraction = "", zone] =
    /^(\d+)-(\d+)-(\d+)(?:[Tt \t]+(\d+):(\d+):(\d+)(?:\.(\d*))?[ \t]*(Z|[-+][\d:]+)?)?$/.exec(
      text,
    )!;
  const date = new Date(0);
  date.setUTCFullYear(Number(year), Number(month) - 1, Number(day));
  if (date.getUTCMonth() !== Number(month) - 1 || Number(day) === 0) return undefined;
  if (hour === undefined) return new PyDate(date.getTime() / 86_400_000);
  const seconds = (Number(hour) * 60 + Number(minute)) * 60 + Number(second);
  if (Number(hour) > 23 || Number(minute) > 59 || Number(second) > 59) return undefined;
  const local = BigInt(date.getTime() + seconds * 1000) * 1000n +
    BigInt(fraction.slice(0, 6).padEnd(6, "0"));
  if (zone === undefined) return new PyDateTime(local);
  if (zone === "Z") return new PyDateTime(local, { zone: "+00:00" });
  const [hours, minutes = "0"] = zone.slice(1).split(":");
  const offset = BigInt(Number(hours) * 60 + Number(minutes)) * 60_000_000n;
  const name = `${zone[0]}${hours.padStart(2, "0")}:${minutes.padStart(2, "0")}`;
  return new PyDateTime(zone[0] === "-" ? local + offset : local - offset, { zone: name });
}
