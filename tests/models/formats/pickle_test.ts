import assert from "node:assert/strict";
import {
  MAX_PICKLE_BYTES,
  PickledTensor,
  type PickleValue,
  unpickle,
  unpickleStateDict,
} from "../../../models/formats/pickle.ts";
import { assertUserError, fuzz, joined, type Part } from "../../fuzz.ts";
import { global, int, little, tensorPickle, text, tuple } from "./torch_file.ts";

const STORAGE = { type: "FloatStorage", elements: 6, bytes: new Uint8Array(24) };
const TENSOR = tensorPickle({ name: "w", key: "0", shape: [2, 3], strides: [3, 1] }, STORAGE);
const ORDERED_DICT = joined(global("collections", "OrderedDict"), ")R");

function assertRefused(parts: readonly Part[], message: RegExp): void {
  assert.throws(() => unpickleStateDict(joined(...parts)), (error) => {
    assertUserError(error);
    assert.match(error.message, message);
    return true;
  });
}

Deno.test("plain values of protocols 2 to 5", () => {
  const map = (...items: [string | number, PickleValue][]) => new Map<unknown, unknown>(items);
  const cases: [Part[], unknown][] = [
    [[0x80, 2, "N."], null],
    [[0x88, "."], true],
    [[0x89, "."], false],
    [["K\xff."], 255],
    [["M\xff\xff."], 65535],
    [[int(-2), "."], -2],
    [[0x8a, 0, "."], 0],
    [[0x8a, 1, "\xff."], -1],
    [[0x8a, 2, "\xff\x00."], 255],
    [[0x8a, 7, little(2 ** 50 + 1, 8).subarray(0, 7), "."], 2 ** 50 + 1],
    [[0x8b, little(1, 4), "\x80."], -128],
    [["G\xbf\xf8\0\0\0\0\0\0."], -1.5],
    [[text("ab"), "."], "ab"],
    [["X", little(2, 4), "\xc3\xa9."], "é"],
    [[0x8c, 2, "ab."], "ab"],
    [[0x8d, little(2, 8), "ab."], "ab"],
    [["U\x02ab."], "ab"],
    [["T", little(2, 4), "ab."], "ab"],
    [["C\x02\0\xff."], new Uint8Array([0, 255])],
    [["B", little(1, 4), "x."], new Uint8Array([0x78])],
    [[0x8e, little(1, 8), "x."], new Uint8Array([0x78])],
    [[")."], []],
    [["(K\x01K\x02K\x03K\x04t."], [1, 2, 3, 4]],
    [["K\x01", 0x85, "."], [1]],
    [["K\x01K\x02", 0x86, "."], [1, 2]],
    [["K\x01K\x02K\x03", 0x87, "."], [1, 2, 3]],
    [["](K\x01K\x02eK\x03a."], [1, 2, 3]],
    [["(K\x01K\x02l."], [1, 2]],
    [["}(K\x01K\x02uK\x03K\x04s."], map([1, 2], [3, 4])],
    [["(K\x01K\x02d."], map([1, 2])],
    [[text("k"), "q\x07", "}h\x07h\x07s."], map(["k", "k"])],
    [[text("k"), "r", little(70000, 4), "0j", little(70000, 4), "."], "k"],
    [[0x80, 4, 0x95, little(7, 8), 0x8c, 1, "k", 0x94, "0h\0", 0x85, "."], ["k"]],
    [["K\x01(K\x021K\x032", 0x87, "."], [1, 3, 3]],
    [[global("torch", "Size"), "(K\x02K\x03t", 0x85, "R."], [2, 3]],
    [[text("torch"), text("Size"), 0x93, "(K\x02t", 0x85, "R."], [2]],
    [[ORDERED_DICT, "(", text("k"), "K\x01u."], map(["k", 1])],
  ];
  for (const [parts, expected] of cases) assert.deepEqual(unpickle(joined(...parts)), expected);
});

Deno.test("a state dict with parameters, shared values and the versions of its modules", () => {
  const parameter = joined(
    global("torch._utils", "_rebuild_parameter"),
    tuple("h\0", 0x88, "N"),
    "R",
  );
  const metadata = joined("}", text("_metadata"), ORDERED_DICT, "sb");
  const items = joined(text("w"), TENSOR, "q\0", text("tied"), "h\0", text("p"), parameter);
  const tensors = unpickleStateDict(joined(0x80, 2, ORDERED_DICT, "(", items, "u", metadata, "."));
  assert.deepEqual([...tensors.keys()], ["w", "tied", "p"]);
  const w = tensors.get("w")!;
  assert.ok(w instanceof PickledTensor);
  assert.deepEqual(
    [w.storage.dtype, w.storage.key, w.storage.elements, w.offset, w.shape, w.strides],
    ["F32", "0", 6, 0, [2, 3], [3, 1]],
  );
  assert.equal(tensors.get("tied"), w);
  assert.equal(tensors.get("p"), w);
});

Deno.test("globals that are not of a state dict are refused by name, before anything is called", () => {
  for (
    const [module, name] of [
      ["os", "system"],
      ["posix", "system"],
      ["builtins", "eval"],
      ["__builtin__", "getattr"],
      ["torch", "load"],
      ["torch.storage", "_load_from_bytes"],
      ["torch", "toString"],
      ["", "__proto__"],
    ]
  ) {
    const named = new RegExp(
      `^refused: it names the global ${module}\\.${name}; only tensors are read$`,
    );
    assertRefused([global(module, name), tuple(text("id")), "R."], named);
    assertRefused([text(module), text(name), 0x93, tuple(text("id")), "R."], named);
    assertRefused(
      [0x80, 4, 0x8c, module.length, module, 0x8c, name.length, name, 0x93, "."],
      named,
    );
    // In the middle of an honest dict.
    assertRefused(["}", text("w"), TENSOR, "s", text("x"), global(module, name), ")Rs."], named);
    // As an argument of a call that is allowed.
    assertRefused(["c", "torch\nSize\n", global(module, name), ")R", 0x85, "R."], named);
  }
  assertRefused(
    [global("a\x1b[2J", "b".repeat(500))],
    /names the global a\\u\{1b\}\[2J\.b{73}…; only/,
  );
});

Deno.test("opcodes that make objects are refused by name", () => {
  const cases: [Part[], string][] = [
    [["(", text("id"), "ios\nsystem\n."], "INST"],
    [["(", ORDERED_DICT, "o."], "OBJ"],
    [[ORDERED_DICT, ")", 0x81, "."], "NEWOBJ"],
    [[ORDERED_DICT, ")}", 0x92, "."], "NEWOBJ_EX"],
    [[0x82, 1, "."], "EXT1"],
    [[0x83, little(1, 2), "."], "EXT2"],
    [[0x84, little(1, 4), "."], "EXT4"],
    [["Pid\n."], "PERSID"],
    [["I01\n."], "INT"],
    [["S'a'\n."], "STRING"],
    [["Va\n."], "UNICODE"],
    [["F1\n."], "FLOAT"],
    [["L1L\n."], "LONG"],
    [["Np0\n."], "PUT"],
    [["g0\n."], "GET"],
    [[0x8f, "."], "EMPTY_SET"],
    [["]", 0x90, "."], "ADDITEMS"],
    [["(", 0x91, "."], "FROZENSET"],
    [[0x96, little(0, 8), "."], "BYTEARRAY8"],
    [[0x97, "."], "NEXT_BUFFER"],
    [["N", 0x98, "."], "READONLY_BUFFER"],
  ];
  for (const [parts, opcode] of cases) {
    assertRefused(
      parts,
      new RegExp(`^refused: it uses the opcode ${opcode}; only tensors are read$`),
    );
  }
  assertRefused(["]Nb."], /^refused: it sets the state of an object \(opcode BUILD\)/);
  assertRefused([ORDERED_DICT, tuple("}", "}"), "b."], /opcode BUILD/);
  assertRefused([TENSOR, "}b."], /opcode BUILD/);
  assertRefused([global("torch", "FloatStorage"), ")R."], /^refused: it calls what is no function/);
  assertRefused(["K\x01)R."], /^refused: it calls what is no function/);
});

Deno.test("malformed pickles are refused", () => {
  const rebuild = global("torch._utils", "_rebuild_tensor_v2");
  const id = (...items: Part[]) => joined(tuple(...items), "Q.");
  const float = global("torch", "FloatStorage");
  const cases: [Part[], RegExp][] = [
    [[], /cut short/],
    [["."], /stack runs empty/],
    [["K\x01(."], /stack runs empty/],
    [["N"], /cut short/],
    [[0xff], /255 is no opcode/],
    [[0x80, 6, "N."], /protocol 6/],
    [["t."], /there is no mark/],
    [["h\x05."], /nothing was memorised as 5/],
    [["X", little(0xffffffff, 4), "abc."], /cut short: 4294967295 bytes expected, 4 are left/],
    [[0x8e, little(0, 4), little(0xffffffff, 4), "abc."], /cut short/],
    [[0x8d, "\xff".repeat(8), "abc."], /cut short/],
    [[0x8b, "\xff\xff\xff\x7f."], /cut short/],
    [[0x8b, little(9, 4), "\x01".repeat(9), "."], /an integer of 9 bytes/],
    [[0x8a, 8, "\x7f".repeat(8), "."], /an integer past 2\^53/],
    [["X", little(1, 4), "\xff."], /a text is not UTF-8/],
    [["cos"], /a line does not end/],
    [["K\x01K\x02", 0x93, "."], /a global's name is no text/],
    [["K\x01K\x02a."], /appended to what is no list/],
    [["K\x01K\x02K\x03s."], /set in what is no dict/],
    [["}(K\x01u."], /a key has no value/],
    [["}]Ns."], /a key is no text and no number/],
    [[global("collections", "OrderedDict"), "]", 0x85, "R."], /made with arguments/],
    [[global("torch", "Size"), "N", 0x85, "R."], /a size is made of/],
    [[global("torch", "Size"), "NR."], /arguments are no tuple/],
    [[global("torch._utils", "_rebuild_parameter"), "N", 0x85, "R."], /a parameter is made of/],
    [["NQ."], /no storage/],
    [[id(text("storage"), float, text("0"), text("cpu"), int(-1))], /no storage/],
    [[id(text("storage"), float, "K\x01", text("cpu"), int(1))], /no storage/],
    [[id(text("module"), float, text("0"), text("cpu"), int(1))], /no storage/],
    [[id(text("storage"), global("torch", "Size"), text("0"), text("cpu"), int(1))], /no storage/],
    [[rebuild, ")R."], /a tensor without storage/],
    [[tensorPickle({ name: "", key: "", shape: [-1], strides: [1] }, STORAGE), "."], /not up to 8/],
    [[
      tensorPickle({ name: "", key: "", shape: Array(9).fill(1), strides: [1] }, STORAGE),
      ".",
    ], /not up to 8 numbers/],
    [
      [tensorPickle({ name: "", key: "", shape: [1], strides: [] }, STORAGE), "."],
      /more sizes than/,
    ],
    [[TENSOR, "."], /^expected a dict of tensors, got something else$/],
    [
      ["}", text("epoch"), int(3), "s."],
      /^expected a dict of tensors, got something else as epoch$/,
    ],
    [["}", int(3), TENSOR, "s."], /got something else as 3$/],
  ];
  for (const [parts, message] of cases) assertRefused(parts, message);
  assertRefused([new Uint8Array(MAX_PICKLE_BYTES + 1)], /at most 4194304 are read/);
});

Deno.test("bombs cost no more than their length", () => {
  // Billion laughs: each tuple holds the one before it twice; 2^1000 values if ever written out.
  const laughs = joined(")", ...Array.from({ length: 1000 }, () => joined("2", 0x86)), ".");
  assert.ok(Array.isArray(unpickle(laughs)));
  // The same through the memo and lists.
  const level = (n: number) => joined("]q", n % 2, "(", "h", 1 - n % 2, "h", 1 - n % 2, "e");
  const lists = joined("]q\x01", ...Array.from({ length: 1000 }, (_, n) => level(n)), ".");
  assertRefused([lists], /expected a dict of tensors/);
  // Half a million levels, half a million values at once, half a million marks.
  assertRefused(["]".repeat(5e5), "a".repeat(5e5 - 1), "."], /expected a dict of tensors/);
  assert.equal((unpickle(joined("](", "N".repeat(5e5), "e.")) as unknown[]).length, 5e5);
  assertRefused(["(".repeat(5e5), "."], /stack runs empty/);
  // A list and a dict that hold themselves.
  assertRefused(["]q\0h\0a."], /expected a dict of tensors/);
  assertRefused(["}q\0", text("self"), "h\0s."], /got something else as self/);
  // Sizes that grow after the tensor was made leave it as it was.
  const id = tuple(
    text("storage"),
    global("torch", "FloatStorage"),
    text("0"),
    text("cpu"),
    int(6),
  );
  const made = joined(
    global("torch._utils", "_rebuild_tensor_v2"),
    tuple(id, "Q", int(0), "h\0", "h\0"),
  );
  const grown = joined("](", int(6), "eq\x000", made, "Rq\x010h\0", int(9), "a0h\x01.");
  assert.deepEqual((unpickle(grown) as PickledTensor).shape, [6]);
});

Deno.test("10,000 damaged pickles are read or refused, never anything else", async () => {
  const dict = joined(0x80, 2, "}q\0(", text("w"), TENSOR, "q\x01", text("v"), "h\x01", "u.");
  const plain = joined("](K\x01M\x02\x03", int(4), 0x8a, 1, "\x05G", "\0".repeat(8), "NU\x01ae.");
  const outcome = await fuzz([dict, dict, plain], 10_000, unpickle);
  assert.ok(outcome.read > 500 && outcome.refused > 5000, JSON.stringify(outcome));
});
