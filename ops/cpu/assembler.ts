/**
 * A small assembler for WebAssembly with 128-bit vectors: expressions are values, statements are calls, and
 * a module is bytes. No toolchain, no package.
 *
 * Addresses are 32 or 64 bits wide, as the memory is; {@link Func.at} and {@link Func.pointer} hide which.
 *
 * @module
 */

/** Types of values. Floats live in vectors only: lane 0 where one is meant. */
export type WasmType = "i32" | "i64" | "v128";

/** Bytes, nested as they were put together; flattened once, at the end. */
export type Bytes = readonly (number | Bytes)[];

/** An expression: instructions that leave one value on the stack. */
export interface Code {
  /** Type of the value. */
  readonly type: WasmType;
  /** Its instructions. */
  readonly bytes: Bytes;
}

/** A variable of a function; as an expression, its value. */
export interface Local extends Code {
  /** Its number. */
  readonly index: number;
}

/** How the memory of a module is addressed. */
export interface MemoryKind {
  /** 64-bit addresses, for memory beyond 4 GiB. */
  readonly wide: boolean;
  /** Shared among threads. */
  readonly shared: boolean;
  /** The processor fuses multiplication and addition (`relaxed_madd`). */
  readonly fused: boolean;
}

const TYPE: Record<WasmType, number> = { i32: 0x7f, i64: 0x7e, v128: 0x7b };

function unsigned(n: number): number[] {
  const out: number[] = [];
  do {
    const low = n % 128;
    n = Math.floor(n / 128);
    out.push(n > 0 ? low | 128 : low);
  } while (n > 0);
  return out;
}

function signed(n: number): number[] {
  const out: number[] = [];
  for (;;) {
    const low = n & 127;
    n >>= 7;
    const last = (n === 0 && !(low & 64)) || (n === -1 && (low & 64) !== 0);
    out.push(last ? low : low | 128);
    if (last) return out;
  }
}

function flatten(bytes: Bytes, into: number[]): number[] {
  for (const b of bytes) {
    if (typeof b === "number") into.push(b);
    else flatten(b, into);
  }
  return into;
}

const simd = (op: number): Bytes => [0xfd, ...unsigned(op)];

// ---- Expressions ----

const op = (type: WasmType, code: number | Bytes) => (...args: Code[]): Code => ({
  type,
  bytes: [...args.map(({ bytes }) => bytes), code],
});

/** 32-bit integers. */
export const i32 = {
  const: (n: number): Code => ({ type: "i32", bytes: [0x41, ...signed(n | 0)] }),
  add: op("i32", 0x6a),
  sub: op("i32", 0x6b),
  mul: op("i32", 0x6c),
  divU: op("i32", 0x6e),
  remU: op("i32", 0x70),
  and: op("i32", 0x71),
  or: op("i32", 0x72),
  xor: op("i32", 0x73),
  shl: op("i32", 0x74),
  shrU: op("i32", 0x76),
  eqz: op("i32", 0x45),
  eq: op("i32", 0x46),
  ne: op("i32", 0x47),
  ltS: op("i32", 0x48),
  ltU: op("i32", 0x49),
  gtU: op("i32", 0x4b),
  leS: op("i32", 0x4c),
  leU: op("i32", 0x4d),
  geS: op("i32", 0x4e),
  geU: op("i32", 0x4f),
  /** a if the condition is not 0, else b. */
  select: (condition: Code, a: Code, b: Code): Code => ({
    type: a.type,
    bytes: [a.bytes, b.bytes, condition.bytes, 0x1b],
  }),
  /** The smaller of two unsigned numbers; both are computed twice. */
  minU: (a: Code, b: Code): Code => i32.select(i32.ltU(a, b), a, b),
  /** Lane of a vector. */
  lane: (v: Code, lane: number): Code => ({ type: "i32", bytes: [v.bytes, simd(0x1b), lane] }),
  anyTrue: op("i32", simd(0x53)),
  /** The top bits of four lanes. */
  bitmask: op("i32", simd(0xa4)),
  load: (pointer: Code, offset = 0): Code => memory("i32", [0x28], 2, pointer, offset),
};

function memory(
  type: WasmType,
  code: Bytes,
  align: number,
  pointer: Code,
  offset: number,
): Code {
  return { type, bytes: [pointer.bytes, code, align, ...unsigned(offset)] };
}

const vector = (code: number) => op("v128", simd(code));
const f32bits = new DataView(new ArrayBuffer(4));

/** Four lanes of floats or of 32-bit integers. */
export const v = {
  load: (p: Code, offset = 0): Code => memory("v128", simd(0x00), 2, p, offset),
  /** One number in all lanes. */
  loadSplat: (p: Code, offset = 0): Code => memory("v128", simd(0x09), 2, p, offset),
  /** One number in lane 0, zeros in the others. */
  loadZero: (p: Code, offset = 0): Code => memory("v128", simd(0x5c), 2, p, offset),
  /** Two numbers in lanes 0 and 1, zeros in the others. */
  loadZero2: (p: Code, offset = 0): Code => memory("v128", simd(0x5d), 2, p, offset),
  /** A vector whose `lane` is read from memory. */
  loadLane: (p: Code, vector: Code, lane: number, offset = 0): Code => ({
    type: "v128",
    bytes: [p.bytes, vector.bytes, simd(0x56), 2, ...unsigned(offset), lane],
  }),
  bits: (a: number, b: number, c: number, d: number): Code => {
    const bytes = [a, b, c, d].flatMap((n) => {
      f32bits.setUint32(0, n >>> 0, true);
      return [0, 1, 2, 3].map((i) => f32bits.getUint8(i));
    });
    return { type: "v128", bytes: [simd(0x0c), ...bytes] };
  },
  /** An integer in all lanes. */
  int: (n: number): Code => v.bits(n, n, n, n),
  /** A float in all lanes. */
  float: (n: number): Code => {
    f32bits.setFloat32(0, n, true);
    return v.int(f32bits.getUint32(0, true));
  },
  zero: (): Code => v.int(0),
  /** An integer in all lanes. */
  splat: op("v128", simd(0x11)),
  add: vector(0xe4),
  sub: vector(0xe5),
  mul: vector(0xe6),
  div: vector(0xe7),
  /** Smaller of floats: b < a ? b : a. */
  min: vector(0xea),
  /** Larger of floats: a < b ? b : a. A NaN in the first operand stays. */
  max: vector(0xeb),
  abs: vector(0xe0),
  neg: vector(0xe1),
  sqrt: vector(0xe3),
  nearest: vector(0x6a),
  /** To signed integers, saturated. */
  toInt: vector(0xf8),
  /** From signed integers. */
  fromInt: vector(0xfa),
  /** From unsigned integers. */
  fromUint: vector(0xfb),
  lt: vector(0x43),
  gt: vector(0x44),
  ne: vector(0x42),
  and: vector(0x4e),
  /** First and not second. */
  andNot: vector(0x4f),
  or: vector(0x50),
  xor: vector(0x51),
  not: vector(0x4d),
  /** Bits of a where the mask has ones, else of b. */
  select: (mask: Code, a: Code, b: Code): Code => ({
    type: "v128",
    bytes: [a.bytes, b.bytes, mask.bytes, simd(0x52)],
  }),
  iAdd: vector(0xae),
  iSub: vector(0xb1),
  iMul: vector(0xb5),
  iEq: vector(0x37),
  iNe: vector(0x38),
  iLtU: vector(0x3a),
  iGtU: vector(0x3c),
  iGeU: vector(0x40),
  iLeS: vector(0x3d),
  iMinU: vector(0xb7),
  shl: (a: Code, bits: number): Code => ({
    type: "v128",
    bytes: [a.bytes, i32.const(bits).bytes, simd(0xab)],
  }),
  shrU: (a: Code, bits: number): Code => ({
    type: "v128",
    bytes: [a.bytes, i32.const(bits).bytes, simd(0xad)],
  }),
  shrS: (a: Code, bits: number): Code => ({
    type: "v128",
    bytes: [a.bytes, i32.const(bits).bytes, simd(0xac)],
  }),
  /** Lanes of two vectors by number: 0–3 of the first, 4–7 of the second. */
  shuffle: (a: Code, b: Code, lanes: readonly number[]): Code => ({
    type: "v128",
    bytes: [
      a.bytes,
      b.bytes,
      simd(0x0d),
      ...lanes.flatMap((lane) => [0, 1, 2, 3].map((i) => lane * 4 + i)),
    ],
  }),
};

// ---- Functions ----

/** A function in the making. Statements are appended by calling methods. */
export class Func {
  /** Number in the module. */
  readonly index: number;
  /** How memory is addressed. */
  readonly kind: MemoryKind;
  /** Type of addresses. */
  readonly pointerType: "i32" | "i64";
  readonly #params: readonly WasmType[];
  readonly #locals: WasmType[] = [];
  /** Statements before all others, whenever they are added. */
  readonly #entry: Bytes[] = [];
  readonly #constants = new Map<string, Local>();
  #body: Bytes[] = [];

  /** Made by {@link Module.func}. */
  constructor(index: number, kind: MemoryKind, params: readonly WasmType[]) {
    this.index = index;
    this.kind = kind;
    this.pointerType = kind.wide ? "i64" : "i32";
    this.#params = params;
  }

  /** Types of the parameters. */
  get params(): readonly WasmType[] {
    return this.#params;
  }

  /** A parameter. */
  param(index: number): Local {
    return { index, type: this.#params[index], bytes: [0x20, ...unsigned(index)] };
  }

  /** A new variable; zero unless set. */
  local(type: WasmType, value?: Code): Local {
    const index = this.#params.length + this.#locals.push(type) - 1;
    const local: Local = { index, type, bytes: [0x20, ...unsigned(index)] };
    if (value) this.set(local, value);
    return local;
  }

  /** A new variable that holds an address. */
  pointer(value?: Code): Local {
    return this.local(this.pointerType, value);
  }

  /** A new variable whose value is computed before anything else in the function. */
  first(type: WasmType, value: Code): Local {
    const local = this.local(type);
    this.#entry.push([value.bytes, 0x21, ...unsigned(local.index)]);
    return local;
  }

  /** A float in all lanes of a variable, the same one for equal numbers: a constant in a loop is made anew in each turn. */
  float(n: number): Local {
    return this.constant(`f${n}`, v.float(n));
  }

  /** An integer in all lanes of a variable. */
  int(n: number): Local {
    return this.constant(`i${n}`, v.int(n));
  }

  /** The value in a variable, which equal keys share. */
  constant(key: string, value: Code): Local {
    let local = this.#constants.get(key);
    if (!local) this.#constants.set(key, local = this.first("v128", value));
    return local;
  }

  /** variable = value */
  set(local: Local, value: Code): void {
    this.#body.push([value.bytes, 0x21, ...unsigned(local.index)]);
  }

  /** variable += a constant number (of bytes, for an address). */
  increase(local: Local, by: number): void {
    const wide = local.type === "i64";
    const step: Bytes = wide ? [0x42, ...signed(by)] : [0x41, ...signed(by)];
    this.#body.push([local.bytes, step, wide ? 0x7c : 0x6a, 0x21, ...unsigned(local.index)]);
  }

  /** The address `bytes` behind another. */
  plus(pointer: Code, bytes: Code): Code {
    return this.kind.wide
      ? { type: "i64", bytes: [pointer.bytes, bytes.bytes, 0xad, 0x7c] }
      : { type: "i32", bytes: [pointer.bytes, bytes.bytes, 0x6a] };
  }

  /** The address `bytes` before another. */
  minus(pointer: Code, bytes: Code): Code {
    return this.kind.wide
      ? { type: "i64", bytes: [pointer.bytes, bytes.bytes, 0xad, 0x7d] }
      : { type: "i32", bytes: [pointer.bytes, bytes.bytes, 0x6b] };
  }

  /** The address of element number `index` (of 4 bytes) of an array. */
  at(pointer: Code, index: Code): Code {
    if (!this.kind.wide) return this.plus(pointer, i32.shl(index, i32.const(2)));
    return { type: "i64", bytes: [pointer.bytes, index.bytes, 0xad, 0x42, 2, 0x86, 0x7c] };
  }

  /** Reads an address from memory, where it takes 8 bytes. */
  loadPointer(pointer: Code, offset: number): Code {
    return this.kind.wide
      ? memory("i64", [0x29], 2, pointer, offset)
      : memory("i32", [0x28], 2, pointer, offset);
  }

  /** Stores four lanes. */
  store(pointer: Code, value: Code, offset = 0): void {
    this.#body.push([pointer.bytes, value.bytes, simd(0x0b), 2, ...unsigned(offset)]);
  }

  /** Stores one lane. */
  storeLane(pointer: Code, value: Code, lane = 0, offset = 0): void {
    this.#body.push([pointer.bytes, value.bytes, simd(0x5a), 2, ...unsigned(offset), lane]);
  }

  /** Stores lanes 0 and 1. */
  storeHalf(pointer: Code, value: Code, offset = 0): void {
    this.#body.push([pointer.bytes, value.bytes, simd(0x5b), 3 - 1, ...unsigned(offset), 0]);
  }

  /** Stores an integer. */
  storeInt(pointer: Code, value: Code, offset = 0): void {
    this.#body.push([pointer.bytes, value.bytes, 0x36, 2, ...unsigned(offset)]);
  }

  /** Adds to a number in memory, as one step for all threads; its value before. */
  fetchAdd(pointer: Code, value: Code): Code {
    return { type: "i32", bytes: [pointer.bytes, value.bytes, 0xfe, 0x1e, 2, 0] };
  }

  /** a · b + c, rounded once where the processor does so. */
  madd(a: Code, b: Code, c: Code): Code {
    return this.kind.fused
      ? { type: "v128", bytes: [a.bytes, b.bytes, c.bytes, simd(0x105)] }
      : v.add(v.mul(a, b), c);
  }

  /** The value of calling another function of the module. */
  result(func: Func, type: WasmType, ...args: Code[]): Code {
    return { type, bytes: [args.map(({ bytes }) => bytes), 0x10, ...unsigned(func.index)] };
  }

  /** Calls a function without result. */
  call(func: Func, ...args: Code[]): void {
    this.#body.push([args.map(({ bytes }) => bytes), 0x10, ...unsigned(func.index)]);
  }

  /** Leaves the function. */
  return(): void {
    this.#body.push([0x0f]);
  }

  #inside(statements: () => void): Bytes {
    const outer = this.#body;
    this.#body = [];
    statements();
    const inner = this.#body;
    this.#body = outer;
    return inner;
  }

  /** Statements if a condition is not 0, others if it is. */
  if(condition: Code, then: () => void, otherwise?: () => void): void {
    const yes = this.#inside(then);
    const no = otherwise ? [0x05, this.#inside(otherwise)] : [];
    this.#body.push([condition.bytes, 0x04, 0x40, yes, no, 0x0b]);
  }

  /** Statements while a condition holds. */
  while(condition: Code, statements: () => void): void {
    // One test before, then one at the end of each turn.
    const body = this.#inside(statements);
    this.#body.push([
      condition.bytes,
      [0x04, 0x40],
      [0x03, 0x40, body, condition.bytes, 0x0d, 0, 0x0b],
      0x0b,
    ]);
  }

  /** Statements for `i` from its present value, by `step`, while it is below `end` (unsigned). */
  for(i: Local, end: Code, step: number, statements: () => void): void {
    this.while(i32.ltU(i, end), () => {
      statements();
      this.increase(i, step);
    });
  }

  /** Statements for ever; they must {@link Func.return}. */
  forever(statements: () => void): void {
    this.#body.push([0x03, 0x40, this.#inside(statements), 0x0c, 0, 0x0b]);
  }

  /** The function as the code section wants it. */
  code(): Bytes {
    const locals = this.#locals.map((type) => [1, TYPE[type]]);
    const body = flatten([...unsigned(locals.length), locals, this.#entry, this.#body, 0x0b], []);
    return [...unsigned(body.length), body];
  }
}

/** A module in the making: it imports its memory as `e.m`. */
export class Module {
  /** How memory is addressed. */
  readonly kind: MemoryKind;
  readonly #funcs: Func[] = [];
  readonly #results: (WasmType | undefined)[] = [];

  /** Starts empty. */
  constructor(kind: MemoryKind) {
    this.kind = kind;
  }

  /** Adds a function. */
  func(params: readonly WasmType[], result?: WasmType): Func {
    const func = new Func(this.#funcs.length, this.kind, params);
    this.#funcs.push(func);
    this.#results.push(result);
    return func;
  }

  /** The module; `main` is exported under that name. */
  bytes(main: Func): Uint8Array<ArrayBuffer> {
    const section = (id: number, content: Bytes): Bytes => {
      const flat = flatten(content, []);
      return [id, ...unsigned(flat.length), flat];
    };
    const count = unsigned(this.#funcs.length);
    const types = this.#funcs.map(({ params }, i) => {
      const result = this.#results[i];
      const results = result ? [1, TYPE[result]] : [0];
      return [0x60, ...unsigned(params.length), params.map((p) => TYPE[p]), results];
    });
    const { shared, wide } = this.kind;
    const flags = (shared ? 3 : 1) | (wide ? 4 : 0);
    // At least one page: with none, V8's code for a tight loop of loads takes a tenth longer.
    const memoryType = [flags, 1, ...unsigned(wide ? WIDE_PAGES : NARROW_PAGES)];
    return Uint8Array.from(flatten([
      [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
      section(1, [...count, types]),
      section(2, [1, 1, 0x65, 1, 0x6d, 2, memoryType]),
      section(3, [...count, this.#funcs.map((_, i) => unsigned(i))]),
      section(7, [1, 1, 0x66, 0, ...unsigned(main.index)]),
      section(10, [...count, this.#funcs.map((f) => f.code())]),
    ], []));
  }
}

/** Pages of 64 KiB that 32-bit addresses reach: 4 GiB. */
export const NARROW_PAGES = 65536;
/** Pages that a memory of 64-bit addresses may grow to: 16 GiB, the most that V8 allows. */
export const WIDE_PAGES = 1 << 18;
