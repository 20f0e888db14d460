/**
 * Reads the pickles that PyTorch writes, and nothing else.
 *
 * A pickle is a program for a small stack machine that may import and call whatever it names. This
 * machine has the opcodes that build plain values; the few globals that a state dict needs are names
 * in a table here, with meanings of our own, and everything else is refused by name. Nothing is
 * imported and nothing recurses. Every opcode does work in proportion to the bytes it takes or the
 * values it pops, so that time and memory are linear in the length of the pickle.
 *
 * Opcodes: CPython's `Lib/pickletools.py`. Tensors: PyTorch's `torch/_utils.py` and
 * `torch/serialization.py`.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import type { Dtype } from "./safetensors.ts";
import { shown } from "./untrusted.ts";

/** What a pickle may hold. Lists and tuples are both arrays. */
export type PickleValue =
  | (null | boolean | number | string | Uint8Array)
  | PickleValue[]
  | Map<null | boolean | number | string, PickleValue>
  | (PickledTensor | PickledStorage | PickledGlobal);

/** A name that the pickle imports: one of the table's. */
export class PickledGlobal {
  /**
   * Only names; nothing is imported.
   *
   * @param name module and name, joined by a dot
   */
  constructor(readonly name: string) {}
}

/** A storage, which lies outside the pickle. */
export class PickledStorage {
  /**
   * Describes it.
   *
   * @param dtype its element type
   * @param key its name among the storages of the file
   * @param elements how many elements it has
   */
  constructor(readonly dtype: Dtype, readonly key: string, readonly elements: number) {}
}

/** A view of a storage; whether it lies within is not checked here. */
export class PickledTensor {
  /**
   * Describes it.
   *
   * @param storage where its elements are
   * @param offset the first of them, counted in elements
   * @param shape its dimensions
   * @param strides elements from one index of each dimension to the next
   */
  constructor(
    readonly storage: PickledStorage,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {}
}

/** Longer pickles are refused: this is enough for 20,000 tensors, and bounds the memory for objects. */
export const MAX_PICKLE_BYTES = 1 << 22;

/** Weights have at most five; the bound keeps tensors small that share one list of sizes. */
const MAX_DIMENSIONS = 8;

/** The storage classes of a state dict. */
const STORAGES: Readonly<Record<string, Dtype>> = {
  "torch.FloatStorage": "F32",
  "torch.HalfStorage": "F16",
  "torch.BFloat16Storage": "BF16",
  "torch.DoubleStorage": "F64",
  "torch.LongStorage": "I64",
  "torch.IntStorage": "I32",
  "torch.ShortStorage": "I16",
  "torch.CharStorage": "I8",
  "torch.ByteStorage": "U8",
  "torch.BoolStorage": "BOOL",
};

/** What the other globals do when they are called. */
const CALLS: Readonly<Record<string, (given: readonly PickleValue[]) => PickleValue>> = {
  "torch._utils._rebuild_tensor_v2": rebuildTensor,
  "torch._utils._rebuild_parameter": ([tensor]) => {
    if (tensor instanceof PickledTensor) return tensor;
    throw malformed("a parameter is made of something that is no tensor");
  },
  "torch.Size": ([sizes]) => {
    if (Array.isArray(sizes)) return sizes;
    throw malformed("a size is made of something that is no tuple");
  },
  // Python writes the items after the call; given in the call, one list could be copied many times.
  "collections.OrderedDict": (given) => {
    if (given.length === 0) return new Map();
    throw malformed("an OrderedDict is made with arguments");
  },
};

/** The opcodes of protocols 0 to 5 by code: letters first, then those from 0x80 on. */
const OPCODES: ReadonlyMap<number, string> = new Map([
  ...("( MARK, . STOP, 0 POP, 1 POP_MARK, 2 DUP, F FLOAT, I INT, J BININT, K BININT1, L LONG, " +
    "M BININT2, N NONE, P PERSID, Q BINPERSID, R REDUCE, S STRING, T BINSTRING, " +
    "U SHORT_BINSTRING, V UNICODE, X BINUNICODE, a APPEND, b BUILD, c GLOBAL, d DICT, " +
    "} EMPTY_DICT, e APPENDS, g GET, h BINGET, i INST, j LONG_BINGET, l LIST, ] EMPTY_LIST, " +
    "o OBJ, p PUT, q BINPUT, r LONG_BINPUT, s SETITEM, t TUPLE, ) EMPTY_TUPLE, u SETITEMS, " +
    "G BINFLOAT, B BINBYTES, C SHORT_BINBYTES")
    .split(", ").map((line): [number, string] => [line.charCodeAt(0), line.slice(2)]),
  ...("PROTO NEWOBJ EXT1 EXT2 EXT4 TUPLE1 TUPLE2 TUPLE3 NEWTRUE NEWFALSE LONG1 LONG4 " +
    "SHORT_BINUNICODE BINUNICODE8 BINBYTES8 EMPTY_SET ADDITEMS FROZENSET NEWOBJ_EX " +
    "STACK_GLOBAL MEMOIZE FRAME BYTEARRAY8 NEXT_BUFFER READONLY_BUFFER")
    .split(" ").map((name, i): [number, string] => [0x80 + i, name]),
]);

/** What the opcodes do that are allowed. */
const STEPS: Readonly<Record<string, (machine: Machine) => void>> = {
  PROTO: (m) => {
    const protocol = m.unsigned(1);
    if (protocol > 5) throw malformed(`protocol ${protocol}, expected at most 5`);
  },
  FRAME: (m) => void m.take(8),
  NONE: (m) => m.push(null),
  NEWTRUE: (m) => m.push(true),
  NEWFALSE: (m) => m.push(false),
  BININT: (m) => m.push(m.unsigned(4) | 0),
  BININT1: (m) => m.push(m.unsigned(1)),
  BININT2: (m) => m.push(m.unsigned(2)),
  LONG1: (m) => m.push(signed(m.take(m.unsigned(1)))),
  LONG4: (m) => m.push(signed(m.take(m.unsigned(4)))),
  BINFLOAT: (m) => m.push(view(m.take(8)).getFloat64(0)),
  BINUNICODE: (m) => m.push(utf8(m.take(m.unsigned(4)))),
  SHORT_BINUNICODE: (m) => m.push(utf8(m.take(m.unsigned(1)))),
  BINUNICODE8: (m) => m.push(utf8(m.take(m.unsigned(8)))),
  BINSTRING: (m) => m.push(utf8(m.take(m.unsigned(4)))), // Python 2's; names are ASCII
  SHORT_BINSTRING: (m) => m.push(utf8(m.take(m.unsigned(1)))),
  BINBYTES: (m) => m.push(m.take(m.unsigned(4))),
  SHORT_BINBYTES: (m) => m.push(m.take(m.unsigned(1))),
  BINBYTES8: (m) => m.push(m.take(m.unsigned(8))),
  MARK: (m) => m.mark(),
  POP: (m) => void m.pop(),
  POP_MARK: (m) => void m.popToMark(),
  DUP: (m) => m.push(m.top()),
  EMPTY_TUPLE: (m) => m.push([]),
  TUPLE: (m) => m.push(m.popToMark()),
  TUPLE1: (m) => m.push([m.pop()]),
  TUPLE2: (m) => m.push([m.pop(), m.pop()].reverse()),
  TUPLE3: (m) => m.push([m.pop(), m.pop(), m.pop()].reverse()),
  EMPTY_LIST: (m) => m.push([]),
  LIST: (m) => m.push(m.popToMark()),
  APPEND: (m) => append([m.pop()], m.top()),
  APPENDS: (m) => append(m.popToMark(), m.top()),
  EMPTY_DICT: (m) => m.push(new Map()),
  DICT: (m) => m.push(setItems(m.popToMark(), new Map())),
  SETITEM: (m) => void setItems([m.pop(), m.pop()].reverse(), m.top()),
  SETITEMS: (m) => void setItems(m.popToMark(), m.top()),
  BINGET: (m) => m.push(m.recall(m.unsigned(1))),
  LONG_BINGET: (m) => m.push(m.recall(m.unsigned(4))),
  BINPUT: (m) => m.memo.set(m.unsigned(1), m.top()),
  LONG_BINPUT: (m) => m.memo.set(m.unsigned(4), m.top()),
  MEMOIZE: (m) => m.memo.set(m.memo.size, m.top()),
  GLOBAL: (m) => m.push(known(`${utf8(m.line())}.${utf8(m.line())}`)),
  STACK_GLOBAL: (m) => {
    const name = m.pop(), module = m.pop();
    if (typeof name === "string" && typeof module === "string") m.push(known(`${module}.${name}`));
    else throw malformed("a global's name is no text");
  },
  BINPERSID: (m) => m.push(storage(m.pop())),
  REDUCE: (m) => {
    const given = m.pop(), called = m.pop();
    m.push(call(called, given));
  },
  BUILD: (m) => {
    const state = m.pop();
    // A state dict carries the versions of its modules; they mean nothing here.
    if (state instanceof Map && m.top() instanceof Map) return;
    throw new UserError(
      "refused: it sets the state of an object (opcode BUILD); only tensors are read",
    );
  },
};

/**
 * Runs a pickle.
 *
 * @param bytes the pickle; bytes after its STOP are ignored, as Python does
 * @throws {UserError} it is malformed or too long, or names a global or an opcode that has no place
 * in a state dict: the message names it
 *
 * @example
 * ```ts
 * import { unpickle } from "./pickle.ts";
 * import assert from "node:assert/strict";
 *
 * const pickle = (text: string) => new TextEncoder().encode(text);
 * assert.deepEqual(unpickle(pickle("(K\x01K\x02t.")), [1, 2]);
 * assert.throws(() => unpickle(pickle("cos\nsystem\n(X\x02\0\0\0lstR.")), /refused.*os\.system/);
 * ```
 */
export function unpickle(bytes: Uint8Array): PickleValue {
  if (bytes.length > MAX_PICKLE_BYTES) {
    throw new UserError(
      `its pickle has ${bytes.length} bytes, at most ${MAX_PICKLE_BYTES} are read`,
    );
  }
  const machine = new Machine(bytes);
  for (;;) {
    const code = machine.unsigned(1);
    const name = OPCODES.get(code);
    if (name === "STOP") return machine.pop();
    if (name === undefined) throw malformed(`${code} is no opcode`);
    if (!Object.hasOwn(STEPS, name)) {
      throw new UserError(`refused: it uses the opcode ${name}; only tensors are read`);
    }
    STEPS[name](machine);
  }
}

/**
 * Runs a pickle that is a dict of tensors.
 *
 * @returns the tensors by name, in the order of the dict
 * @throws {UserError} as {@link unpickle}, or the pickle holds something else
 *
 * @example
 * ```ts
 * import { unpickleStateDict } from "./pickle.ts";
 * import assert from "node:assert/strict";
 *
 * const pickle = (text: string) => new TextEncoder().encode(text);
 * assert.equal(unpickleStateDict(pickle("}.")).size, 0);
 * assert.throws(() => unpickleStateDict(pickle("K\x01.")), /expected a dict of tensors/);
 * ```
 */
export function unpickleStateDict(bytes: Uint8Array): Map<string, PickledTensor> {
  const dict = unpickle(bytes);
  if (!(dict instanceof Map)) throw new UserError("expected a dict of tensors, got something else");
  const tensors = new Map<string, PickledTensor>();
  for (const [name, tensor] of dict) {
    if (typeof name === "string" && tensor instanceof PickledTensor) tensors.set(name, tensor);
    else throw new UserError(`expected a dict of tensors, got something else as ${shown(name)}`);
  }
  return tensors;
}

/** Input, stack and memo. */
class Machine {
  readonly memo = new Map<number, PickleValue>();
  readonly #bytes: Uint8Array;
  readonly #stack: PickleValue[] = [];
  /** Heights of the stack; what lies below the last one is out of reach. */
  readonly #marks: number[] = [];
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** The next bytes, not copied. */
  take(length: number): Uint8Array {
    const left = this.#bytes.length - this.#at;
    if (length > left) throw malformed(`cut short: ${length} bytes expected, ${left} are left`);
    return this.#bytes.subarray(this.#at, this.#at += length);
  }

  /** The next bytes as a number, little-endian; inexact where it is too large to be any length. */
  unsigned(length: 1 | 2 | 4 | 8): number {
    return this.take(length).reduceRight((value, byte) => value * 256 + byte, 0);
  }

  /** The bytes up to the next line feed, which is passed over. */
  line(): Uint8Array {
    const end = this.#bytes.indexOf(0x0a, this.#at);
    if (end < 0) throw malformed("cut short: a line does not end");
    const line = this.take(end - this.#at);
    this.#at++;
    return line;
  }

  push(value: PickleValue): void {
    this.#stack.push(value);
  }

  top(): PickleValue {
    if (this.#stack.length <= (this.#marks.at(-1) ?? 0)) throw malformed("its stack runs empty");
    return this.#stack.at(-1)!;
  }

  pop(): PickleValue {
    const value = this.top();
    this.#stack.pop();
    return value;
  }

  mark(): void {
    this.#marks.push(this.#stack.length);
  }

  popToMark(): PickleValue[] {
    const mark = this.#marks.pop();
    if (mark === undefined) throw malformed("there is no mark");
    return this.#stack.splice(mark);
  }

  recall(index: number): PickleValue {
    const value = this.memo.get(index);
    if (value === undefined) throw malformed(`nothing was memorised as ${index}`);
    return value;
  }
}

function malformed(what: string): UserError {
  return new UserError(`its pickle is malformed: ${what}`);
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function utf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw malformed("a text is not UTF-8");
  }
}

/** A little-endian integer in two's complement, of any length; no bytes are zero. */
function signed(bytes: Uint8Array): number {
  if (bytes.length > 8) throw malformed(`an integer of ${bytes.length} bytes`);
  const padded = new Uint8Array(8).fill((bytes.at(-1) ?? 0) >> 7 ? 0xff : 0);
  padded.set(bytes);
  const value = Number(view(padded).getBigInt64(0, true));
  if (!Number.isSafeInteger(value)) throw malformed("an integer past 2^53");
  return value;
}

function append(values: readonly PickleValue[], list: PickleValue): void {
  if (!Array.isArray(list)) throw malformed("something is appended to what is no list");
  for (const value of values) list.push(value);
}

/** Keys and values take turns. */
function setItems(items: readonly PickleValue[], dict: PickleValue): PickleValue {
  if (!(dict instanceof Map)) throw malformed("an item is set in what is no dict");
  if (items.length % 2 === 1) throw malformed("a key has no value");
  for (let i = 0; i < items.length; i += 2) {
    const key = items[i];
    if (typeof key === "object" && key !== null) throw malformed("a key is no text and no number");
    dict.set(key, items[i + 1]);
  }
  return dict;
}

function known(name: string): PickledGlobal {
  if (Object.hasOwn(CALLS, name) || Object.hasOwn(STORAGES, name)) return new PickledGlobal(name);
  throw new UserError(`refused: it names the global ${shown(name)}; only tensors are read`);
}

function call(called: PickleValue, given: PickleValue): PickleValue {
  if (!(called instanceof PickledGlobal) || !Object.hasOwn(CALLS, called.name)) {
    throw new UserError("refused: it calls what is no function; only tensors are read");
  }
  if (!Array.isArray(given)) throw malformed("arguments are no tuple");
  return CALLS[called.name](given);
}

/** `("storage", class, key, location, elements)`; where it was when it was saved does not matter. */
function storage(id: PickleValue): PickledStorage {
  const [kind, type, key, , elements] = Array.isArray(id) ? id : [];
  if (
    kind === "storage" && type instanceof PickledGlobal && Object.hasOwn(STORAGES, type.name) &&
    typeof key === "string" && isSize(elements)
  ) return new PickledStorage(STORAGES[type.name], key, elements);
  throw malformed("a persistent id is no storage");
}

/** `(storage, offset, shape, strides, requires_grad, backward_hooks)`. */
function rebuildTensor([storage, offset, shape, strides]: readonly PickleValue[]): PickledTensor {
  if (!(storage instanceof PickledStorage) || !isSize(offset)) {
    throw malformed("a tensor without storage");
  }
  const sizes = copySizes(shape), steps = copySizes(strides);
  if (sizes.length !== steps.length) throw malformed("a tensor with more sizes than strides");
  return new PickledTensor(storage, offset, sizes, steps);
}

/** A copy, since the list may be appended to later. */
function copySizes(value: PickleValue): number[] {
  if (Array.isArray(value) && value.length <= MAX_DIMENSIONS && value.every(isSize)) {
    return value.slice() as number[];
  }
  throw malformed(`a tensor's sizes or strides are not up to ${MAX_DIMENSIONS} numbers`);
}

function isSize(value: PickleValue): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
