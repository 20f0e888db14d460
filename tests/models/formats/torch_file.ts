/**
 * Builders of small files in PyTorch's format, honest and hostile.
 */
import assert from "node:assert/strict";
import { crc32 } from "node:zlib";
import type { ByteSource } from "../../../models/formats/stored.ts";
import { joined, type Part } from "../../fuzz.ts";

/** A little-endian number. */
export function little(value: number, bytes: 2 | 4 | 8): Uint8Array {
  return Uint8Array.from({ length: bytes }, (_, i) => Math.floor(value / 256 ** i) % 256);
}

/** Opcodes of a pickle. */
export const text = (s: string): Uint8Array => joined("X", little(s.length, 4), s);
export const int = (n: number): Uint8Array => joined("J", little(n, 4));
export const tuple = (...items: readonly Part[]): Uint8Array => joined("(", ...items, "t");
export const global = (module: string, name: string): string => `c${module}\n${name}\n`;

/** A storage of a {@link torchFile}. */
export interface TestStorage {
  type: string;
  elements: number;
  bytes: Uint8Array;
}

/** A tensor of a {@link torchFile}. */
export interface TestTensor {
  name: string;
  key: string;
  shape: readonly number[];
  strides: readonly number[];
  offset?: number;
}

/** The pickle of one tensor. */
export function tensorPickle(
  { key, shape, strides, offset = 0 }: TestTensor,
  { type, elements }: TestStorage,
): Uint8Array {
  const id = tuple(text("storage"), global("torch", type), text(key), text("cpu"), int(elements));
  const sizes = tuple(...shape.map(int)), steps = tuple(...strides.map(int));
  const hooks = joined(global("collections", "OrderedDict"), ")R");
  const given = tuple(joined(id, "Q"), int(offset), sizes, steps, 0x89, hooks);
  return joined(global("torch._utils", "_rebuild_tensor_v2"), given, "R");
}

/** What `torch.save` writes for a dict of tensors. */
export function torchFile(
  storages: Readonly<Record<string, TestStorage>>,
  tensors: readonly TestTensor[],
  options: { wide?: boolean; edit?: (entries: TestEntry[]) => TestEntry[] } = {},
): Uint8Array<ArrayBuffer> {
  const items = tensors.map((t) => joined(text(t.name), tensorPickle(t, storages[t.key])));
  const pickle = joined(0x80, 2, "}(", ...items, "u.");
  const entries = [
    { name: "m/data.pkl", bytes: pickle },
    { name: "m/byteorder", bytes: joined("little") },
    ...Object.entries(storages).map(([key, { bytes }]) => ({ name: `m/data/${key}`, bytes })),
  ];
  return zip(options.edit?.(entries) ?? entries, options.wide);
}

/** An entry of a {@link zip}; what is not its name and bytes is a lie in the directory. */
export interface TestEntry {
  name: string;
  bytes: Uint8Array;
  method?: number;
  flags?: number;
  header?: number;
  size?: number;
  stored?: number;
  localName?: string;
}

/**
 * An archive whose entries are stored. Padding before the bytes makes local headers differ from the
 * directory's, as PyTorch's do.
 *
 * @param wide state every number of the directory in 64 bits
 */
export function zip(entries: readonly TestEntry[], wide = false): Uint8Array<ArrayBuffer> {
  let body = new Uint8Array(), directory = new Uint8Array();
  for (const { name, bytes, localName = name, ...lies } of entries) {
    const { method = 0, flags = 0, size = bytes.length, stored = size } = lies;
    const header = lies.header ?? body.length, pad = joined("FB", little(3, 2), "ZZZ");
    const lengths = [little(localName.length, 2), little(pad.length, 2)];
    const local = ["PK\x03\x04", "\0\0", little(flags, 2), little(method, 2), "\0".repeat(16)];
    body = joined(body, ...local, ...lengths, localName, pad, bytes);

    const numbers = [size, stored, header];
    const extra = wide
      ? joined(little(1, 2), little(24, 2), ...numbers.map((n) => little(n, 8)))
      : joined();
    const [shownSize, shownStored, shownHeader] = numbers.map((n) =>
      little(wide ? 0xffffffff : n, 4)
    );
    directory = joined(
      ...[directory, "PK\x01\x02", "\0".repeat(4), little(flags, 2), little(method, 2)],
      ...[
        "\0".repeat(4),
        little(crc32(bytes), 4),
        shownStored,
        shownSize,
        little(name.length, 2),
        little(extra.length, 2),
      ],
      ...["\0".repeat(10), shownHeader, name, extra],
    );
  }
  const at = body.length, count = entries.length, end = at + directory.length;
  const end64 = joined(
    ...["PK\x06\x06", little(44, 8), "\0".repeat(12), little(count, 8), little(count, 8)],
    ...[little(directory.length, 8), little(at, 8)],
    ...["PK\x06\x07", little(0, 4), little(end, 8), little(1, 4)],
  );
  const narrow = (n: number, bytes: 2 | 4) => little(wide ? 256 ** bytes - 1 : n, bytes);
  return joined(
    ...[body, directory, wide ? end64 : "", "PK\x05\x06", little(0, 4)],
    ...[narrow(count, 2), narrow(count, 2), narrow(directory.length, 4), narrow(at, 4)],
    little(0, 2),
  );
}

/** Bytes as a file. A read that does not lie within it is a bug, whatever the bytes say. */
export function source(bytes: Uint8Array<ArrayBuffer>): ByteSource {
  return {
    size: bytes.length,
    read(offset, length) {
      assert.ok(
        Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 &&
          length >= 0 && offset + length <= bytes.length,
        `read of ${length} bytes at ${offset}`,
      );
      return Promise.resolve(bytes.slice(offset, offset + length));
    },
  };
}
