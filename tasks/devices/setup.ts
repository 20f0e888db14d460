/**
 * Getting WebGPU's software adapter on a machine that has none: the driver by which the kernels of GPUs
 * compute on the processor. Tests need it, and `--adapter software`; nothing else installs anything.
 *
 * Deno keeps the graphics instance of its first `requestAdapter` for as long as the JavaScript
 * runtime lives: asked once in vain, it never finds a driver that was installed since. So the
 * question is put by a short-lived Worker, which has an instance of its own (about 40 ms), and this
 * runtime asks only when the answer is known to be yes.
 *
 * Permissions: `--allow-env=DENO_WEBGPU_BACKEND,XDG_RUNTIME_DIR`. To install the software driver,
 * also `--allow-sys=uid`, `--allow-read=/etc/os-release` and `--allow-run=apt-get,sudo`; without these
 * the user is told what to type. A script that goes on to read other people's files should first give
 * the permission to run programs back: `Deno.permissions.revokeSync({ name: "run" })`.
 *
 * @module
 */
import { readFile, stat } from "node:fs/promises";
import process from "node:process";
import { UserError } from "../../ops/graph/errors.ts";
import { askProgram } from "./ask_program.ts";

/** Packages that together do one thing, by the package manager that has them under these names. */
interface Packages {
  apt: readonly string[];
  dnf: readonly string[];
  pacman: readonly string[];
  apk: readonly string[];
}

/** The Vulkan loader, and Mesa's drivers with the one that computes on the CPU. */
const DRIVER: Packages = {
  apt: ["libvulkan1", "mesa-vulkan-drivers"],
  dnf: ["vulkan-loader", "mesa-vulkan-drivers"],
  pacman: ["vulkan-icd-loader", "vulkan-swrast"],
  apk: ["vulkan-loader", "mesa-vulkan-swrast"],
};

/** An MPI library and its launcher. */
const MPI: Packages = {
  apt: ["openmpi-bin"],
  dnf: ["openmpi"],
  pacman: ["openmpi"],
  apk: ["openmpi"],
};

/** What decides how a package can be had. */
export interface System {
  /** `Deno.build.os`. */
  os: string;
  /** `ID` and `ID_LIKE` of `/etc/os-release`: "ubuntu", "debian". */
  distributions: readonly string[];
  /** Whether the user may install: as root, by sudo without a password, or not. */
  rights: "root" | "sudo" | "none";
}

/** What to do about missing packages: run commands, or tell the user. */
export interface Installation {
  /** Commands to run, of which the last one counts. None when nothing can be done from here. */
  install: readonly (readonly string[])[];
  /** What the user can do, as the end of a sentence: "type: sudo apt-get ...". */
  advice: string;
}

/**
 * What to do on a system without a software adapter.
 *
 * @example
 * ```ts
 * import { driverInstallation } from "./setup.ts";
 * import assert from "node:assert/strict";
 *
 * const arch = { os: "linux", distributions: ["arch"], rights: "none" } as const;
 * assert.match(driverInstallation(arch).advice, /pacman -S/);
 * assert.deepEqual(driverInstallation(arch).install, []);
 * ```
 */
export function driverInstallation(system: System): Installation {
  const { os } = system;
  if (os === "darwin") {
    return { install: [], advice: "macOS has none: compute on the CPU with --adapter cpu" };
  }
  if (os === "windows") {
    return {
      install: [],
      advice:
        "Direct3D 12 has one built in: update Windows, or compute on the CPU with --adapter cpu",
    };
  }
  return packageInstallation(DRIVER, system) ??
    { install: [], advice: "install the Vulkan loader and Mesa's Vulkan drivers" };
}

/**
 * What to do on a system without MPI.
 *
 * @example
 * ```ts
 * import { mpiInstallation } from "./setup.ts";
 * import assert from "node:assert/strict";
 *
 * const { advice } = mpiInstallation({ os: "linux", distributions: ["fedora"], rights: "none" });
 * assert.equal(advice, "type: sudo dnf install openmpi");
 * ```
 */
export function mpiInstallation(system: System): Installation {
  if (system.os === "darwin") return { install: [], advice: "type: brew install open-mpi" };
  return packageInstallation(MPI, system) ?? { install: [], advice: "install Open MPI" };
}

/** Undefined for a system whose package manager is not known here. */
function packageInstallation(
  packages: Packages,
  { distributions, rights }: System,
): Installation | undefined {
  const is = (...names: string[]) => names.some((name) => distributions.includes(name));
  const sudo = rights === "root" ? "" : "sudo ";
  const type = (command: string, names: readonly string[]): Installation => ({
    install: [],
    advice: `type: ${sudo}${command} ${names.join(" ")}`,
  });
  if (is("debian", "ubuntu")) {
    const get = aptGet(rights);
    const update = get("update", "-qq"); // fresh containers have no lists, old ones stale ones
    const install = get("install", "-y", "-qq", "--no-install-recommends", ...packages.apt);
    return {
      install: rights === "none" ? [] : [update, install],
      advice: `type: ${sudo}apt-get update && ${sudo}apt-get install -y ${packages.apt.join(" ")}`,
    };
  }
  if (is("fedora", "rhel")) return type("dnf install", packages.dnf);
  if (is("arch")) return type("pacman -S", packages.pacman);
  if (is("alpine")) return type("apk add", packages.apk);
  return undefined;
}

/** `apt-get` with its environment, by way of sudo (which cleans the environment) where needed. */
function aptGet(rights: System["rights"]): (...args: string[]) => string[] {
  if (rights !== "sudo") return (...args) => ["apt-get", ...args];
  return (...args) => ["sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", ...args];
}

/**
 * Makes sure of the software adapter before anything else in the process asks for an adapter. Installs
 * nothing: that is what `deno task setup` is for.
 *
 * @throws {UserError} there is none
 *
 * @example
 * ```ts ignore
 * import { expectSoftware } from "./setup.ts";
 *
 * await expectSoftware();
 * ```
 */
export async function expectSoftware(): Promise<void> {
  await prepareEnvironment();
  if (await probe()) return;
  throw new UserError("no software adapter found; deno task setup installs its driver");
}

/**
 * The software adapter. Its driver is installed first where there is none and where that is possible
 * without asking (a Debian-like system, as root or by sudo without a password).
 *
 * Call it before anything else in the process asks for an adapter.
 *
 * @throws {UserError} there is none; says what to type on this system
 *
 * @example
 * ```ts ignore
 * import { ensureSoftware } from "./setup.ts";
 *
 * const adapter = await ensureSoftware();
 * console.log(adapter.info.description);
 * ```
 */
export async function ensureSoftware(): Promise<GPUAdapter> {
  await prepareEnvironment();
  if (!await probe()) await installDriver();
  const adapter = await navigator.gpu?.requestAdapter({ forceFallbackAdapter: true });
  if (!adapter) throw new UserError("the software adapter has gone away; run the command again");
  return adapter;
}

/**
 * Says how WebGPU finds its adapters: by Vulkan and not by its OpenGL fallback, and without a complaint of
 * Mesa's about a missing folder. Call it before the process asks for its first adapter.
 */
export async function prepareEnvironment(): Promise<void> {
  if (Deno.build.os !== "linux") return;
  process.env.DENO_WEBGPU_BACKEND ||= "vulkan";
  const folder = process.env.XDG_RUNTIME_DIR;
  if (!folder || await isMissing(folder)) process.env.XDG_RUNTIME_DIR = "/tmp";
}

/** Only where it may be looked at: a warning of Mesa's is better than Deno's question to the user. */
async function isMissing(path: string): Promise<boolean> {
  if (Deno.permissions.querySync({ name: "read", path }).state !== "granted") return false;
  return await stat(path).then(() => false, () => true);
}

/** Whether there is a software adapter, asked in a runtime of its own. */
async function probe(): Promise<boolean> {
  const code = `const adapter = await navigator.gpu?.requestAdapter({ forceFallbackAdapter: true });
    postMessage(Boolean(adapter));
    close();`;
  const worker = new Worker(`data:text/javascript,${encodeURIComponent(code)}`, { type: "module" });
  try {
    return await new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = reject;
    });
  } finally {
    worker.terminate();
  }
}

async function installDriver(): Promise<void> {
  const { install, advice } = driverInstallation(await inspectSystem());
  const fail = (what: string) => new UserError(`${what}; ${advice}`);
  if (!mayInstall(install)) throw fail("no software adapter found");

  console.error("No software adapter found: installing its driver (about a minute).");
  const failure = await installAll(install);
  if (failure !== undefined) throw fail(`installing the software driver failed (${failure})`);
  if (!await probe()) throw fail("no software adapter found, even with the software driver");
  console.error("The software driver is installed.");
}

/**
 * Makes sure that ranks can be started under MPI, which some tests do; installs Open MPI where that is
 * possible without asking. Never fails: where there is no MPI it says so, and those tests are left out.
 *
 * Permissions: `--allow-run=mpirun` and those of {@link ensureSoftware}.
 */
export async function ensureMpi(): Promise<void> {
  if (await hasMpi()) return;
  const { install, advice } = mpiInstallation(await inspectSystem());
  const complain = (what: string) =>
    console.error(`${what}; the tests that need it are left out. To run them, ${advice}`);
  if (!mayInstall(install)) return complain("No MPI found");

  console.error("No MPI found: installing Open MPI.");
  const failure = await installAll(install);
  if (failure !== undefined) return complain(`Installing Open MPI failed (${failure})`);
  console.error("Open MPI is installed.");
}

/** Deno permits to run what it finds at its start, so a launcher installed since cannot be asked. */
async function hasMpi(): Promise<boolean> {
  if (!mayRun("mpirun")) return false;
  return (await askProgram("mpirun", ["--version"])).success;
}

function mayInstall(commands: Installation["install"]): boolean {
  return commands.length > 0 && commands.every(([program]) => mayRun(program));
}

/** The reason why the last command failed, if it did. */
async function installAll(commands: Installation["install"]): Promise<string | undefined> {
  let failure: string | undefined;
  for (const command of commands) {
    console.error(`> ${command.join(" ")}`);
    failure = await execute(command);
  }
  return failure;
}

/** Runs a command; what it prints is shown only when it fails, and its last line is the reason. */
async function execute([program, ...args]: readonly string[]): Promise<string | undefined> {
  const { success, code, stdout, stderr } = await new Deno.Command(program, {
    args,
    env: { DEBIAN_FRONTEND: "noninteractive" },
    stdin: "null",
  }).output();
  if (success) return undefined;
  const printed = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("").trim();
  if (printed) console.error(printed);
  return printed.split("\n").at(-1) || `exit code ${code}`;
}

async function inspectSystem(): Promise<System> {
  const os = Deno.build.os;
  if (os !== "linux") return { os, distributions: [], rights: "none" };
  const release = await readFile("/etc/os-release", "utf8").catch(() => "");
  return { os, distributions: distributionsIn(release), rights: await rightsOfUser() };
}

/**
 * The names of a distribution and of those it is like.
 *
 * @param release the text of `/etc/os-release`
 *
 * @example
 * ```ts
 * import { distributionsIn } from "./setup.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(distributionsIn("ID=mint\nID_LIKE='ubuntu debian'\n"), ["mint", "ubuntu", "debian"]);
 * ```
 */
export function distributionsIn(release: string): string[] {
  return [...release.matchAll(/^ID(?:_LIKE)?=["']?([^"'\n]*)/gm)].flatMap(([, ids]) =>
    ids.toLowerCase().split(/\s+/)
  );
}

/** Without the permission to ask who the user is, he is taken for an ordinary one. */
async function rightsOfUser(): Promise<System["rights"]> {
  const knowsUser = Deno.permissions.querySync({ name: "sys", kind: "uid" }).state === "granted";
  if (knowsUser && Deno.uid() === 0) return "root";
  if (!mayRun("sudo")) return "none";
  return (await askProgram("sudo", ["-n", "true"])).success ? "sudo" : "none";
}

function mayRun(command: string): boolean {
  return Deno.permissions.querySync({ name: "run", command }).state === "granted";
}
