import assert from "node:assert/strict";
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  distributionsIn,
  driverInstallation,
  mpiInstallation,
  type System,
} from "../../../tasks/devices/setup.ts";

const linux = (rights: System["rights"], ...distributions: string[]): System => ({
  os: "linux",
  distributions,
  rights,
});

Deno.test("root installs on Debian-like systems by apt-get, others by sudo, or are told what to type", () => {
  const packages = ["libvulkan1", "mesa-vulkan-drivers"];
  const install = ["install", "-y", "-qq", "--no-install-recommends", ...packages];
  const viaSudo = ["sudo", "-n", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
  const advice = `apt-get update && apt-get install -y ${packages.join(" ")}`;
  assert.deepEqual(driverInstallation(linux("root", "debian")), {
    install: [["apt-get", "update", "-qq"], ["apt-get", ...install]],
    advice: `type: ${advice}`,
  });
  assert.deepEqual(driverInstallation(linux("sudo", "mint", "ubuntu")), {
    install: [[...viaSudo, "update", "-qq"], [...viaSudo, ...install]],
    advice: `type: ${advice.replaceAll("apt-get", "sudo apt-get")}`,
  });
  assert.deepEqual(driverInstallation(linux("none", "ubuntu", "debian")).install, []);
});

Deno.test("on every other system the advice fits, and nothing is run", () => {
  for (
    const [system, advice] of [
      [linux("root", "fedora"), /^type: dnf install vulkan-loader mesa-vulkan-drivers$/],
      [linux("sudo", "rocky", "rhel"), /^type: sudo dnf install/],
      [linux("none", "manjaro", "arch"), /^type: sudo pacman -S vulkan-icd-loader vulkan-swrast$/],
      [linux("root", "alpine"), /^type: apk add vulkan-loader mesa-vulkan-swrast$/],
      [linux("root"), /^install the Vulkan loader/],
      [{ os: "darwin", distributions: [], rights: "none" }, /^macOS has none: .*--adapter cpu$/],
      [{ os: "windows", distributions: [], rights: "none" }, /^Direct3D 12 has one built in/],
    ] as [System, RegExp][]
  ) {
    const plan = driverInstallation(system);
    assert.match(plan.advice, advice);
    assert.deepEqual(plan.install, []);
  }
});

Deno.test("MPI comes by the same ways", () => {
  const install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "openmpi-bin"];
  assert.deepEqual(mpiInstallation(linux("root", "debian")).install[1], install);
  for (
    const [system, advice] of [
      [linux("none", "debian"), /^type: sudo apt-get update && sudo .* openmpi-bin$/],
      [linux("root", "fedora"), /^type: dnf install openmpi$/],
      [linux("root"), /^install Open MPI$/],
      [{ os: "darwin", distributions: [], rights: "none" }, /^type: brew install open-mpi$/],
    ] as [System, RegExp][]
  ) assert.match(mpiInstallation(system).advice, advice);
});

Deno.test("distributions are named by ID and ID_LIKE only", () => {
  const release = 'NAME="Pop!_OS"\nVERSION_ID="22.04"\nID=pop\nID_LIKE="ubuntu debian"\n';
  assert.deepEqual(distributionsIn(release), ["pop", "ubuntu", "debian"]);
  assert.deepEqual(distributionsIn(""), []);
});

// From here on, the real script runs on a machine whose driver is hidden (VK_DRIVER_FILES) and whose
// apt-get and sudo are stand-ins that write down how they were called.

const ICD = "/usr/share/vulkan/icd.d";
const isDebian = Deno.build.os === "linux" &&
  distributionsIn(await readFile("/etc/os-release", "utf8").catch(() => "")).includes("debian");

/** Runs `scripts/setup.ts` with only the stand-ins on its PATH. */
async function setUp(
  stand: Record<string, string>,
  permissions: string[] = ["--allow-sys=uid"],
  { driver = "", flags = [] }: { driver?: string; flags?: string[] } = {},
) {
  const folder = await mkdtemp(join(tmpdir(), "setup-"));
  try {
    const [log, icd] = [join(folder, "log"), join(folder, "icd.json")];
    for (const [name, body] of Object.entries(stand)) {
      const text = `#!/bin/sh\necho "$DEBIAN_FRONTEND: ${name} $*" >> ${log}\n${body}\n`;
      await writeFile(join(folder, name), text.replaceAll("ICD_FILE", icd));
      await chmod(join(folder, name), 0o755);
    }
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: [
        ...["run", "--quiet", "--no-prompt", "--allow-env=DENO_WEBGPU_BACKEND,XDG_RUNTIME_DIR"],
        ...["--allow-read=/etc/os-release", "--allow-run=apt-get,sudo,mpirun", ...permissions],
        ...[new URL("../../../scripts/setup.ts", import.meta.url).href, ...flags],
      ],
      env: { PATH: folder, VK_DRIVER_FILES: driver || icd, DEBIAN_FRONTEND: "", NO_COLOR: "1" },
    }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    const calls = await readFile(log, "utf8").catch(() => "");
    return { code, stdout: text(stdout), stderr: text(stderr), calls };
  } finally {
    await rm(folder, { recursive: true });
  }
}

const INSTALL = "install -y -qq --no-install-recommends libvulkan1 mesa-vulkan-drivers";

Deno.test({
  name: "root on a bare machine: the driver is installed and found in the same process",
  ignore: !isDebian || Deno.uid() !== 0,
  async fn() {
    const aptGet = `case $1 in install) /bin/cp ${ICD}/lvp_icd*.json ICD_FILE;; esac`;
    const { code, stdout, stderr, calls } = await setUp({ "apt-get": aptGet });
    assert.equal(code, 0, stderr);
    assert.equal(calls, `noninteractive: apt-get update -qq\nnoninteractive: apt-get ${INSTALL}\n`);
    assert.match(
      stderr,
      /installing its driver[\s\S]*> apt-get install[\s\S]*is installed/,
    );
    assert.match(stdout, /^Ready: llvmpipe/);
  },
});

Deno.test({
  name: "an installation that fails ends in one line with its reason and the command to type",
  ignore: !isDebian || Deno.uid() !== 0,
  async fn() {
    const aptGet = `[ $1 = update ] || { echo "E: Unable to locate package" >&2; exit 100; }`;
    const { code, stdout, stderr } = await setUp({ "apt-get": aptGet });
    assert.equal(code, 1);
    assert.equal(stdout, "");
    assert.match(
      stderr,
      /\nerror: installing the software driver failed \(E: Unable to locate package\); type: .*apt-get.*\n$/,
    );
  },
});

Deno.test({
  name: "a driver that does not help is reported as such",
  ignore: !isDebian || Deno.uid() !== 0,
  async fn() {
    const { code, stderr } = await setUp({ "apt-get": "" });
    assert.equal(code, 1);
    assert.match(
      stderr,
      /\nerror: no software adapter found, even with the software driver; type: /,
    );
  },
});

Deno.test({
  name: "a user with sudo and no password installs by sudo, without a question",
  ignore: !isDebian,
  async fn() {
    // Without the permission to ask who the user is, the script takes him for an ordinary one.
    const { calls } = await setUp({ "apt-get": "", sudo: "" }, []);
    const env = "sudo -n env DEBIAN_FRONTEND=noninteractive apt-get";
    assert.deepEqual(calls.trim().split("\n").map((call) => call.replace(/^.*?: /, "")), [
      "sudo -n true",
      `${env} update -qq`,
      `${env} ${INSTALL}`,
    ]);
  },
});

Deno.test({
  name: "a user whose sudo wants a password is told what to type, and nothing is installed",
  ignore: !isDebian,
  async fn() {
    const { code, stderr, calls } = await setUp({ "apt-get": "", sudo: "exit 1" }, []);
    assert.equal(code, 1);
    assert.equal(
      stderr,
      "error: no software adapter found; type: sudo apt-get update && " +
        "sudo apt-get install -y libvulkan1 mesa-vulkan-drivers\n",
    );
    assert.equal(calls, ": sudo -n true\n");
  },
});

// The driver is there; MPI is not.
const driver = await readdir(ICD).then(
  (names) => join(ICD, names.find((name) => name.startsWith("lvp_icd")) ?? ""),
  () => "",
);
const forTests = { driver, flags: ["--tests"] };

Deno.test({
  name: "for tests, MPI is installed, unless it is there",
  ignore: !isDebian || Deno.uid() !== 0,
  async fn() {
    const bare = await setUp({ "apt-get": "" }, undefined, forTests);
    assert.equal(bare.code, 0, bare.stderr);
    assert.match(bare.calls, /apt-get install -y -qq --no-install-recommends openmpi-bin\n$/);
    assert.match(bare.stderr, /\nOpen MPI is installed\.\n$/);
    const ready = await setUp({ "apt-get": "", mpirun: "" }, undefined, forTests);
    assert.equal(ready.calls, ": mpirun --version\n");
    assert.equal(ready.stderr, "");
  },
});

Deno.test({
  name: "for tests, MPI that cannot be installed is one line with the command to type",
  ignore: !isDebian,
  async fn() {
    const { code, stdout, stderr } = await setUp({ sudo: "exit 1" }, [], forTests);
    assert.equal(code, 0);
    assert.equal(
      stderr,
      "No MPI found; the tests that need it are left out. To run them, type: " +
        "sudo apt-get update && sudo apt-get install -y openmpi-bin\n",
    );
    assert.match(stdout, /^Ready: /);
  },
});
