/**
 * The MPI library of the machine, opened through Deno's foreign function interface: which file it is,
 * whose it is, and its calls under one signature for both families of binary interfaces.
 *
 * | family   | libraries with it                         | a handle such as `MPI_COMM_WORLD`  |
 * | -------- | ----------------------------------------- | ---------------------------------- |
 * | Open MPI | Open MPI                                  | the address of a variable          |
 * | MPICH    | MPICH, Intel MPI, MVAPICH, Cray MPICH     | a 32-bit number, the same for ever |
 *
 * Permissions: `--allow-ffi=` with the paths of {@link MPI_LIBRARIES}, or with the one that is given.
 *
 * @module
 */
import { UserError } from "../../../ops/graph/errors.ts";

/** The two families of binary interfaces. */
export type MpiFamily = "Open MPI" | "MPICH";

/** Where distributions put the library. */
const PLACES: Readonly<Record<MpiFamily, readonly string[]>> = {
  "Open MPI": [
    "/usr/lib/x86_64-linux-gnu/libmpi.so.40", // Debian, Ubuntu
    "/usr/lib/aarch64-linux-gnu/libmpi.so.40",
    "/usr/lib64/openmpi/lib/libmpi.so.40", // Fedora, RHEL
    "/usr/lib64/mpi/gcc/openmpi4/lib64/libmpi.so.40", // SUSE
    "/usr/lib/libmpi.so.40", // Arch
    "/usr/local/lib/libmpi.so.40", // built from source
    "/usr/local/mpi/lib/libmpi.so.40", // NVIDIA's containers
    "/opt/homebrew/lib/libmpi.40.dylib",
    "/usr/local/lib/libmpi.40.dylib",
  ],
  "MPICH": [
    "/usr/lib/x86_64-linux-gnu/libmpich.so.12",
    "/usr/lib/aarch64-linux-gnu/libmpich.so.12",
    "/usr/lib64/mpich/lib/libmpi.so.12",
    "/usr/local/lib/libmpi.so.12",
  ],
};

/**
 * The paths at which an MPI library is looked for, in this order: what `--allow-ffi=` has to list.
 *
 * @example
 * ```ts
 * import { MPI_LIBRARIES } from "./library.ts";
 * import assert from "node:assert/strict";
 *
 * assert(MPI_LIBRARIES.includes("/usr/lib/x86_64-linux-gnu/libmpi.so.40"));
 * ```
 */
export const MPI_LIBRARIES: readonly string[] = [...PLACES["Open MPI"], ...PLACES["MPICH"]];

/** Arrays that a collective call takes. */
export type MpiArray = Uint8Array | Float32Array | Float64Array;

/** One part per rank of an array. */
export interface MpiParts {
  /** Elements of each part. */
  counts: Int32Array<ArrayBuffer>;
  /** Where each part begins, in elements. */
  offsets: Int32Array<ArrayBuffer>;
}

/**
 * An opened library. The promises are kept by another thread, so that the event loop goes on; their
 * arrays must not be touched until then.
 */
export interface MpiLibrary {
  /** The file. */
  path: string;
  /** "Open MPI 4.1.4". */
  version: string;
  /** `MPI_Init_thread`, by the main thread. Returns the level of thread support, see {@link THREADS}. */
  initialize(): number;
  /** `MPI_Finalize`, by the thread that initialized. */
  finalize(): void;
  /** Number of this process, and of how many, among all or among those of this machine. */
  place(of: "world" | "machine"): { rank: number; size: number };
  /** The name of this machine. */
  host(): string;
  /** `MPI_Alltoallv`. */
  allToAll(send: MpiArray, sent: MpiParts, receive: MpiArray, received: MpiParts): Promise<void>;
  /** `MPI_Allgatherv` in place. */
  allGather(values: MpiArray, parts: MpiParts): Promise<void>;
  /** `MPI_Bcast`; at most 2³¹ − 1 elements. */
  broadcast(values: MpiArray, root: number): Promise<void>;
  /** `MPI_Barrier`. */
  barrier(): Promise<void>;
  /**
   * Ends all processes of the job with exit code 1, from any thread.
   *
   * @param threads the level of thread support. Where only one thread at a time may call the library, this
   *   process just exits, upon which the launcher ends the others; so it does if `MPI_Abort` hangs
   */
  abort(threads: number): never;
}

/** Levels of thread support: who may call. */
export const THREADS = {
  /** Any thread, one at a time. */
  serialized: 2,
  /** Any thread at any time. */
  multiple: 3,
} as const;

/** `MPI_MAX_LIBRARY_VERSION_STRING` and `MPI_MAX_PROCESSOR_NAME`: the larger one of both families. */
const VERSION_BYTES = 8192;
const NAME_BYTES = 256;

/** How long a launcher may take to pass on what was printed before `MPI_Abort`. */
const LAST_WORDS_SECONDS = 0.2;
/** How long `MPI_Abort` may take. */
const ABORT_SECONDS = 5;

/**
 * What is needed of the library. A handle is an address in one family and a number in the other; the
 * types say address for both.
 */
function declareSymbols(family: MpiFamily) {
  const handle = (family === "Open MPI" ? "pointer" : "i32") as "pointer";
  const nonblocking = true;
  return {
    MPI_Init_thread: { parameters: ["usize", "usize", "i32", "buffer"], result: "i32" },
    MPI_Finalize: { parameters: [], result: "i32" },
    MPI_Comm_rank: { parameters: [handle, "buffer"], result: "i32" },
    MPI_Comm_size: { parameters: [handle, "buffer"], result: "i32" },
    MPI_Comm_split_type: { parameters: [handle, "i32", "i32", handle, "buffer"], result: "i32" },
    // A handle that a call has written comes as a number: an address made of it would take the
    // permission for all libraries.
    rankIn: { name: "MPI_Comm_rank", parameters: ["usize", "buffer"], result: "i32" },
    sizeOf: { name: "MPI_Comm_size", parameters: ["usize", "buffer"], result: "i32" },
    MPI_Get_processor_name: { parameters: ["buffer", "buffer"], result: "i32" },
    MPI_Alltoallv: {
      parameters: [
        ...["buffer", "buffer", "buffer", handle] as const,
        ...["buffer", "buffer", "buffer", handle] as const,
        handle,
      ],
      result: "i32",
      nonblocking,
    },
    MPI_Allgatherv: {
      parameters: ["usize", "i32", handle, "buffer", "buffer", "buffer", handle, handle],
      result: "i32",
      nonblocking,
    },
    MPI_Bcast: {
      parameters: ["buffer", "i32", handle, "i32", handle],
      result: "i32",
      nonblocking,
    },
    MPI_Barrier: { parameters: [handle], result: "i32", nonblocking },
    MPI_Abort: { parameters: [handle, "i32"], result: "i32", nonblocking },
    _exit: { parameters: ["i32"], result: "void" }, // the C library's, which every MPI library uses
  } as const;
}

/** The handles and numbers that C's header would give. */
interface Constants {
  world: Deno.PointerValue;
  noInfo: Deno.PointerValue;
  types: Record<"byte" | "float" | "double", Deno.PointerValue>;
  /** `MPI_COMM_TYPE_SHARED`. */
  sharedMemory: number;
  /** `MPI_IN_PLACE`. */
  inPlace: bigint;
}

function constantsOf(family: MpiFamily, path: string): Constants {
  if (family === "MPICH") {
    const number = (handle: number) => handle as unknown as Deno.PointerValue;
    return {
      world: number(0x44000000),
      noInfo: number(0x1c000000),
      types: {
        byte: number(0x4c00010d),
        float: number(0x4c00040a),
        double: number(0x4c00080b),
      },
      sharedMemory: 1,
      inPlace: 0xffff_ffff_ffff_ffffn,
    };
  }
  const { symbols } = Deno.dlopen(
    path,
    {
      ompi_mpi_comm_world: { type: "pointer" },
      ompi_mpi_info_null: { type: "pointer" },
      ompi_mpi_byte: { type: "pointer" },
      ompi_mpi_float: { type: "pointer" },
      ompi_mpi_double: { type: "pointer" },
    } as const,
  );
  return {
    world: symbols.ompi_mpi_comm_world,
    noInfo: symbols.ompi_mpi_info_null,
    types: {
      byte: symbols.ompi_mpi_byte,
      float: symbols.ompi_mpi_float,
      double: symbols.ompi_mpi_double,
    },
    sharedMemory: 0,
    inPlace: 1n,
  };
}

/**
 * Opens the MPI library.
 *
 * @param options `path`: of the file; without it the first of {@link MPI_LIBRARIES} that is there, those
 *   of the `preferred` family first
 * @throws {UserError} there is none; it is none; permission is missing
 */
export function loadMpi(options: { path?: string; preferred?: MpiFamily } = {}): MpiLibrary {
  const { path, version } = findLibrary(options);
  const family = familyOf(version);
  if (!family) {
    throw new UserError(`${path}: expected Open MPI or a relative of MPICH, got '${version}'`);
  }
  const { symbols } = Deno.dlopen(path, declareSymbols(family));
  const { world, noInfo, types, sharedMemory, inPlace } = constantsOf(family, path);
  const int = new Int32Array(1);
  const ask = (code: number) => {
    check(code);
    return int[0];
  };

  return {
    path,
    version: shortVersion(version),
    initialize: () => ask(symbols.MPI_Init_thread(0n, 0n, THREADS.multiple, int)),
    finalize: () => check(symbols.MPI_Finalize()),
    place(of) {
      if (of === "world") {
        const rank = ask(symbols.MPI_Comm_rank(world, int));
        return { rank, size: ask(symbols.MPI_Comm_size(world, int)) };
      }
      const machine = new BigUint64Array(1);
      check(symbols.MPI_Comm_split_type(world, sharedMemory, 0, noInfo, machine));
      const rank = ask(symbols.rankIn(machine[0], int));
      return { rank, size: ask(symbols.sizeOf(machine[0], int)) };
    },
    host() {
      const name = new Uint8Array(NAME_BYTES);
      return new TextDecoder().decode(
        name.subarray(0, ask(symbols.MPI_Get_processor_name(name, int))),
      );
    },
    ...exchanges(symbols, { world, types, inPlace }),
    barrier: async () => check(await symbols.MPI_Barrier(world)),
    abort: (threads) => abort(symbols, world, threads),
  };
}

type Symbols = Deno.DynamicLibrary<ReturnType<typeof declareSymbols>>["symbols"];

/** What ranks exchange. */
function exchanges(
  symbols: Symbols,
  { world, types, inPlace }: Pick<Constants, "world" | "types" | "inPlace">,
): Pick<MpiLibrary, "allToAll" | "allGather" | "broadcast"> {
  const typeOf = (values: MpiArray) =>
    values instanceof Uint8Array
      ? types.byte
      : values instanceof Float32Array
      ? types.float
      : types.double;
  // Short typed arrays have no memory of their own until somebody asks for it, and until then the
  // garbage collector may move them.
  const settle = (...arrays: MpiArray[]) => arrays.forEach((array) => array.buffer);
  return {
    async allToAll(send, sent, receive, received) {
      settle(send, receive);
      check(
        await symbols.MPI_Alltoallv(
          ...[send as BufferSource, sent.counts, sent.offsets, typeOf(send)] as const,
          ...[receive as BufferSource, received.counts, received.offsets, typeOf(send)] as const,
          world,
        ),
      );
    },
    async allGather(values, { counts, offsets }) {
      settle(values);
      const type = typeOf(values);
      check(
        await symbols.MPI_Allgatherv(
          ...[inPlace, 0, type, values as BufferSource, counts, offsets, type, world] as const,
        ),
      );
    },
    async broadcast(values, root) {
      settle(values);
      check(
        await symbols.MPI_Bcast(
          values as BufferSource,
          values.length,
          typeOf(values),
          root,
          world,
        ),
      );
    },
  };
}

/** Ends all ranks, after what they have printed is passed on. */
function abort(symbols: Symbols, world: Deno.PointerValue, threads: number): never {
  const sleep = (seconds: number) =>
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, seconds * 1000);
  sleep(LAST_WORDS_SECONDS);
  if (threads >= THREADS.multiple) {
    symbols.MPI_Abort(world, 1);
    sleep(ABORT_SECONDS);
  }
  symbols._exit(1);
  throw new Error("the process has outlived its exit");
}

/** By default the library ends the job itself on an error; this is for those that were told not to. */
function check(code: number): void {
  if (code !== 0) throw new Error(`MPI call failed with code ${code}`);
}

/** The first library that opens, and what it says of itself. */
function findLibrary(
  { path, preferred }: { path?: string; preferred?: MpiFamily },
): { path: string; version: string } {
  if (path !== undefined) return { path, version: askVersion(path) };
  const order: MpiFamily[] = preferred === "MPICH" ? ["MPICH", "Open MPI"] : ["Open MPI", "MPICH"];
  const failures: UserError[] = [];
  for (const candidate of order.flatMap((family) => PLACES[family])) {
    try {
      return { path: candidate, version: askVersion(candidate) };
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      if (!isMissing(error)) failures.push(error);
    }
  }
  throw failures[0] ?? new UserError(
    "no MPI library found; type: sudo apt-get install openmpi-bin (Debian, Ubuntu) or " +
      "sudo dnf install openmpi (Fedora, RHEL), or name its file",
  );
}

function isMissing(error: UserError): boolean {
  return /no such file|cannot open shared object file/i.test(error.message);
}

function askVersion(path: string): string {
  let library;
  try {
    library = Deno.dlopen(
      path,
      { MPI_Get_library_version: { parameters: ["buffer", "buffer"], result: "i32" } } as const,
    );
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) {
      throw new UserError(`no permission to use ${path}; run Deno with --allow-ffi=${path}`);
    }
    const reason = (error as Error).message.replace(/^Could not open library: /, "");
    throw new UserError(`no MPI library can be opened at ${path}: ${reason}`);
  }
  const [text, length] = [new Uint8Array(VERSION_BYTES), new Int32Array(1)];
  library.symbols.MPI_Get_library_version(text, length);
  return new TextDecoder().decode(text.subarray(0, length[0])).replace(/\0+$/, "").trim();
}

/**
 * Whose binary interface a library has.
 *
 * @param version what `MPI_Get_library_version` says
 * @returns undefined for a library of neither family
 *
 * @example
 * ```ts
 * import { familyOf } from "./library.ts";
 * import assert from "node:assert/strict";
 *
 * assert.equal(familyOf("Intel(R) MPI Library 2021.5 for Linux* OS"), "MPICH");
 * ```
 */
export function familyOf(version: string): MpiFamily | undefined {
  if (/Open MPI/i.test(version)) return "Open MPI";
  if (/MPICH|Intel\(R\) MPI|MVAPICH/i.test(version)) return "MPICH";
  return undefined;
}

/** "Open MPI v4.1.4, package: Debian OpenMPI, ..." is too much for a line. */
function shortVersion(version: string): string {
  const [, name, number] = /^(Open MPI|MPICH|MVAPICH2?)\D*?(\d[\w.]*)/.exec(version) ?? [];
  return name ? `${name} ${number}` : version.split("\n")[0].trim();
}
