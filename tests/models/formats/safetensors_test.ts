import assert from "node:assert/strict";
import { UserError } from "../../../ops/graph/errors.ts";
import {
  decodeFloats,
  encodeHeader,
  headerSize,
  parseHeader,
} from "../../../models/formats/safetensors.ts";
import { MAX_JSON_BYTES } from "../../../models/formats/untrusted.ts";
import { assertUserError, fuzz, joined } from "../../fuzz.ts";

/** A header with any JSON in it, followed (only in the declared size) by `dataBytes` of data. */
function parse(json: unknown, dataBytes: number) {
  const text = new TextEncoder().encode(typeof json === "string" ? json : JSON.stringify(json));
  const bytes = new Uint8Array(8 + text.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return parseHeader(bytes, bytes.length + dataBytes);
}

const tensor = (
  begin: number,
  end: number,
  shape = [(end - begin) / 4],
  dtype: unknown = "F32",
) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
});

Deno.test("a header reads back as it was written", () => {
  const specs = [
    { name: "z", shape: [2, 3] },
    { name: "half", shape: [3], dtype: "F16" },
    { name: "__proto__", shape: [] },
    { name: 'quote " and \\', shape: [0, 5] },
  ] as const;
  const written = encodeHeader(specs, { update: "12", note: "é\n" });
  assert.equal(written.bytes.length % 8, 0);
  const read = parseHeader(written.bytes, written.bytes.length + 24 + 4 + 6);
  assert.deepEqual({ ...read.metadata }, { update: "12", note: "é\n" });
  assert.deepEqual([...read.tensors], [...written.tensors]);
  assert.deepEqual([...read.tensors.keys()], ["__proto__", 'quote " and \\', "z", "half"]);
});

Deno.test("the order of the tensors does not depend on the order they are given in", () => {
  const specs = [{ name: "b", shape: [1] }, { name: "a", shape: [2] }, { name: "c", shape: [] }];
  assert.deepEqual(
    encodeHeader(specs, { x: "1", y: "2" }).bytes,
    encodeHeader(specs.toReversed(), { y: "2", x: "1" }).bytes,
  );
});

Deno.test("headers that lie are refused", () => {
  for (
    const [json, dataBytes, message] of [
      ["{", 0, /^header: not JSON/],
      ["[]", 0, /^header: does not start with a brace/],
      [" {}", 0, /^header: does not start with a brace/],
      [`{"w":1,"w":2}`, 0, /^header: w is listed twice/],
      [`{"w":1,"\\u0077":2}`, 0, /^header: w is listed twice/],
      [`{"w":{"shape":[1],"shape":[2]}}`, 0, /^header: shape is listed twice/],
      [{ __metadata__: { update: 3 } }, 0, /^__metadata__: expected an object of texts/],
      [{ w: null }, 0, /^tensor w: expected an object with dtype/],
      [{ w: tensor(0, 4, [1], "F31") }, 4, /^tensor w: expected a dtype.*got F31$/],
      [{ w: tensor(0, 4, [1], "toString") }, 4, /^tensor w: expected a dtype/],
      [{ w: tensor(0, 4, [-1]) }, 4, /^tensor w: expected a shape.*got \[-1\]/],
      [{ w: tensor(0, 4, [0.5]) }, 4, /^tensor w: expected a shape/],
      [{ w: tensor(0, 4, [2 ** 40, 2 ** 40]) }, 4, /^tensor w: expected a shape/],
      [{ w: tensor(0, 0, [2 ** 52, 2 ** 52, 0]) }, 0, /^tensor w: expected a shape/],
      [{ w: tensor(0, 0, [...Array(60).fill(2 ** 52), 0]) }, 0, /^tensor w: expected a shape/],
      [
        { w: { ...tensor(0, 4), data_offsets: [0, 2 ** 53] } },
        4,
        /^tensor w: expected data_offsets/,
      ],
      [{ w: tensor(0, 4), __metadata__: [] }, 4, /^__metadata__: expected an object/],
      [{ "w\x1b[2J\n": 1 }, 0, /^tensor w\\u\{1b\}\[2J\\u\{a\}: expected an object/],
      [{ w: { ...tensor(0, 4), data_offsets: [4, 0] } }, 4, /^tensor w: expected data_offsets/],
      [{ w: { ...tensor(0, 4), data_offsets: [0] } }, 4, /^tensor w: expected data_offsets/],
      [{ w: tensor(0, 8, [1]) }, 8, /^tensor w: expected 4 bytes for shape \[1\] of F32, got 8/],
      [{ v: tensor(0, 8), w: tensor(4, 12) }, 12, /^tensor w overlaps the one before it/],
      [{ v: tensor(0, 4), w: tensor(8, 12) }, 12, /^4 stray bytes before tensor w/],
      [{ w: tensor(0, 8) }, 7, /^cut short: expected \d+ bytes, the file has \d+/],
      [{ w: tensor(0, 8) }, 9, /^1 stray bytes after the last tensor/],
    ] as const
  ) {
    assert.throws(() => parse(json, dataBytes), (error) => {
      assertUserError(error);
      assert.match(error.message, message);
      return true;
    });
  }
});

Deno.test("headers that are deep, or long in one place, are no trouble", () => {
  const deep = "[".repeat(1e6) + "]".repeat(1e6);
  assert.throws(
    () => parse(`{"w":${deep}}`, 0),
    /^UserError: header: its JSON is nested too deeply/,
  );
  for (const key of ["k".repeat(4e6), "\\n".repeat(2e6)]) {
    assert.throws(() => parse(`{"${key}":1}`, 0), (error) => {
      assertUserError(error);
      assert.match(error.message, /^tensor .*…: expected an object/);
      return true;
    });
  }
  assert.throws(() => parse({ w: Array(2e6).fill(1) }, 0), (error) => {
    assertUserError(error);
    return true;
  });
});

Deno.test("a wrong length of the header is refused before anything is read by it", () => {
  const lengthOf = (length: bigint) => {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, length, true);
    return bytes;
  };
  assert.throws(() => headerSize(lengthOf(2n ** 63n), 100), /not a safetensors file/);
  const long = BigInt(MAX_JSON_BYTES) + 1n;
  assert.throws(
    () => headerSize(lengthOf(long), 2 ** 40),
    /would be 4194305 bytes long, of at most/,
  );
  assert.throws(() => headerSize(lengthOf(100n), 100), /cut short/);
  assert.throws(() => headerSize(new Uint8Array(3), 3), /expected a safetensors file, got 3 bytes/);
});

Deno.test("half-precision tensors are widened exactly", () => {
  const halves = new Uint8Array(new Uint16Array([0x3c00, 0xc000, 0x0001, 0x7c00]).buffer);
  assert.deepEqual([...decodeFloats("F16", halves)], [1, -2, 2 ** -24, Infinity]);
  const brain = new Uint8Array(new Uint16Array([0x3f80, 0xc000, 0x0080, 0xff80]).buffer);
  assert.deepEqual([...decodeFloats("BF16", brain)], [1, -2, 2 ** -126, -Infinity]);
  const double = new Uint8Array(Float64Array.of(0.1, 1e300).buffer);
  assert.deepEqual([...decodeFloats("F64", double)], [Math.fround(0.1), Infinity]);
  assert.throws(() => decodeFloats("I64", halves), UserError);
});

Deno.test("two tensors of one name are a mistake of ours", () => {
  assert.throws(
    () => encodeHeader([{ name: "w", shape: [] }, { name: "w", shape: [1] }], {}),
    (error) => error instanceof Error && !(error instanceof UserError),
  );
});

Deno.test("10,000 damaged files are read or refused, never anything else", async () => {
  const specs = [{ name: "w", shape: [2, 1] }, { name: "é", shape: [1], dtype: "BF16" }] as const;
  const whole = joined(encodeHeader(specs, { a: "b" }).bytes, "\0".repeat(10));
  const outcome = await fuzz([whole], 10_000, (bytes) => {
    const { tensors } = parseHeader(bytes, bytes.length);
    for (const { dtype, shape, offset, bytes: size } of tensors.values()) {
      assert.ok(offset + size <= bytes.length);
      const count = shape.reduce((product, n) => product * n, 1);
      assert.equal(decodeFloats(dtype, bytes.slice(offset, offset + size)).length, count);
    }
  });
  assert.ok(outcome.read > 50 && outcome.refused > 5000, JSON.stringify(outcome));
});
