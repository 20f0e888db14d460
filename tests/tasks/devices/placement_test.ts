import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { UserError } from "../../../ops/graph/errors.ts";
import {
  type Card,
  describeRank,
  findCards,
  openPlaced,
  PLACEMENT_VARIABLES,
  placeRank,
  placeRanks,
} from "../../../tasks/devices/placement.ts";
import { gpuTest } from "../../gpu.ts";

const onLinux = Deno.build.os === "linux";

/** Runs `body` with a temporary folder. */
async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "placement-"));
  try {
    await body(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** A PCI bus as the kernel shows it: by address, the driver (if any), the class, and the ids. */
async function writeBus(
  folder: string,
  devices: Record<string, [string | undefined, string, string]>,
): Promise<void> {
  for (const [address, [driver, kind, id]] of Object.entries(devices)) {
    await mkdir(join(folder, "devices", address), { recursive: true });
    const uevent = (driver ? `DRIVER=${driver}\n` : "") +
      `PCI_CLASS=${kind}\nPCI_ID=${id}\nPCI_SUBSYS_ID=10DE:16C1\nPCI_SLOT_NAME=${address}\n` +
      "MODALIAS=pci:v000010DEd00002330sv000010DEsd000016C1bc03sc02i00\n";
    await writeFile(join(folder, "devices", address, "uevent"), uevent);
  }
}

Deno.test({
  name: "findCards counts cards that Vulkan computes on, and nothing else",
  ignore: !onLinux,
  fn: () =>
    inFolder(async (folder) => {
      await writeBus(folder, {
        "0000:00:00.0": [undefined, "60000", "8086:0D57"], // a bridge without a driver
        "0000:00:02.0": ["i915", "30000", "8086:4680"],
        "0000:03:00.0": ["ast", "30000", "1A03:2000"], // a management controller's display
        "0001:41:00.0": ["nvidia", "30200", "10DE:2330"],
        "0000:41:00.0": ["nvidia", "30200", "10DE:2330"],
        "0000:41:00.1": ["snd_hda_intel", "40300", "10DE:22BD"], // a card's sound
        "0000:42:00.0": ["vfio-pci", "30200", "10DE:2330"], // lent to a virtual machine
        "0000:43:00.0": [undefined, "30200", "10DE:2330"],
        "0000:44:00.0": ["amdgpu", "38000", "1002:74A1"],
        "0000:45:00.0": ["amdgpu", "120000", "1002:740F"], // no graphics, no Vulkan
        "0000:00:05.0": ["bochs-drm", "30000", "1234:1111"], // a virtual machine's display
      });
      assert.deepEqual(findCards(folder, join(folder, "none")), [
        { address: "0000:00:02.0", vendor: 0x8086, device: 0x4680 },
        { address: "0000:41:00.0", vendor: 0x10de, device: 0x2330 },
        { address: "0000:44:00.0", vendor: 0x1002, device: 0x74a1 },
        { address: "0001:41:00.0", vendor: 0x10de, device: 0x2330 },
      ]);
    }),
});

Deno.test({
  name: "findCards leaves out NVIDIA's cards that this container may not use",
  ignore: !onLinux,
  fn: () =>
    inFolder(async (folder) => {
      await writeBus(folder, {
        "0000:41:00.0": ["nvidia", "30200", "10DE:2330"],
        "0000:42:00.0": ["nvidia", "30200", "10DE:2330"],
        "0000:44:00.0": ["amdgpu", "38000", "1002:74A1"],
      });
      await mkdir(join(folder, "gpus", "0000:42:00.0"), { recursive: true });
      const found = findCards(folder, join(folder, "gpus")).map((card) => card.address);
      assert.deepEqual(found, ["0000:42:00.0", "0000:44:00.0"]);
    }),
});

Deno.test({
  name: "findCards finds nothing, and asks nothing, without the permission to look",
  permissions: { run: false, read: true, env: true },
  fn: () => assert.deepEqual(findCards(), []),
});

/** Numbers from 0 to n - 1 that repeat with the seed. */
function drawing(seed: number): (n: number) => number {
  return (n) => {
    seed = (seed * 1664525 + 1013904223) >>> 0;
    return Math.floor(seed / 2 ** 32 * n);
  };
}

const MODELS = [[0x10de, 0x2330], [0x10de, 0x26b9], [0x1002, 0x74a1], [0x8086, 0x4680]];

function randomCards(draw: (n: number) => number): Card[] {
  const count = 2 + draw(8);
  return Array.from({ length: count }, (_, i) => {
    const [vendor, device] = MODELS[draw(MODELS.length)];
    return {
      address: `000${draw(2)}:${(i * 16 + 1).toString(16).padStart(2, "0")}:00.0`,
      vendor,
      device,
    };
  });
}

/** What current Mesa's layer takes: the model first, then the place on the bus. */
function chosenByMesa(environment: Map<string, string>, cards: readonly Card[]): Card | undefined {
  const [vendor, device] = (environment.get("MESA_VK_DEVICE_SELECT") ?? "").split(":");
  const model = cards.find((card) =>
    card.vendor === parseInt(vendor, 16) && card.device === parseInt(device, 16)
  );
  const tag = (card: Card) => `pci-${card.address.replace(/[:.]/g, "_")}`;
  return model ?? cards.find((card) => tag(card) === environment.get("DRI_PRIME"));
}

Deno.test("every rank gets a card of its own, whatever ranks before it have set", () => {
  const draw = drawing(7);
  for (let round = 0; round < 300; round++) {
    const cards = randomCards(draw);
    const ranks = draw(4) === 0 ? "all" : 2 + draw(cards.length - 1);
    const request = { ranks, adapter: "auto", cards, given: {} } as const;
    const { environment, expect } = placeRanks({ ...request, mode: "workers" });
    const size = ranks === "all" ? cards.length : ranks;
    assert.equal(environment.length, size);
    assert.equal(new Set(expect.map((card) => card?.address)).size, size);

    const process = new Map<string, string>();
    for (const [rank, variables] of environment.entries()) {
      for (const [name, value] of Object.entries(variables)) {
        assert.ok(PLACEMENT_VARIABLES.includes(name));
        if (value === "") process.delete(name);
        else process.set(name, value);
      }
      const { address } = expect[rank]!;
      assert.equal(chosenByMesa(process, cards)?.address, address);

      // Processes that each look for themselves come to the same, in whatever order they see the cards.
      const shuffled = { adapter: "auto", cards: [...cards].reverse(), given: {} } as const;
      const alone = placeRank({ localRank: rank, localSize: size, ...shuffled });
      assert.equal(alone.expect?.address, address);
      assert.deepEqual(alone.environment, variables);
    }
  }
});

const H100 = { vendor: 0x10de, device: 0x2330 };
const TWO_ALIKE: Card[] = [
  { address: "0000:01:00.0", ...H100 },
  { address: "0000:02:00.0", ...H100 },
];

Deno.test("ranks that work in step get cards of one model where there are enough", () => {
  const cards = [{ address: "0000:00:02.0", vendor: 0x8086, device: 0x4680 }, ...TWO_ALIKE];
  const request = { adapter: "auto", cards, mode: "workers", given: {} } as const;
  const two = placeRanks({ ...request, ranks: 2 });
  assert.deepEqual(two.expect.map((card) => card?.address), ["0000:01:00.0", "0000:02:00.0"]);
  assert.match(two.notes.join("\n"), /told apart by DRI_PRIME.*nvidia-smi/);
  const three = placeRanks({ ...request, ranks: "all" });
  assert.equal(three.expect[2]?.address, "0000:00:02.0");
  assert.match(three.notes.join("\n"), /slowest sets the pace/);
});

Deno.test("what the user has chosen stays", () => {
  const request = { ranks: 2, adapter: "auto", cards: TWO_ALIKE } as const;
  for (const name of ["DRI_PRIME", "MESA_VK_DEVICE_SELECT", "VK_LOADER_DEVICE_SELECT"]) {
    const given = { [name]: "1" };
    const workers = placeRanks({ ...request, mode: "workers", given });
    assert.deepEqual(workers.environment, [{}, {}]);
    assert.deepEqual(workers.expect, [undefined, undefined]);
    assert.match(workers.notes.join(), new RegExp(`^${name}=1 .*will share it; unset it`));
    const processes = placeRanks({ ...request, mode: "processes", given });
    assert.match(processes.notes.join(), /make sure that every rank has another$/);
  }
  const given = { MESA_VK_DEVICE_SELECT_FORCE_DEFAULT_DEVICE: "0" };
  const { environment } = placeRanks({ ...request, mode: "workers", given });
  assert.deepEqual(Object.keys(environment[0]), ["VK_LOADER_DEVICE_SELECT", "DRI_PRIME"]);
});

Deno.test("one rank and ranks on the CPU are not placed", () => {
  const request = { mode: "workers", given: { DRI_PRIME: "1" } } as const;
  const plain = { environment: [{}], notes: [], expect: [undefined] };
  for (const cards of [[], TWO_ALIKE.slice(1), TWO_ALIKE]) {
    assert.deepEqual(placeRanks({ ...request, ranks: 1, adapter: "auto", cards }), plain);
    for (const adapter of ["cpu", "software"] as const) {
      assert.deepEqual(placeRanks({ ...request, ranks: "all", adapter, cards }), plain);
    }
  }
  assert.deepEqual(placeRanks({ ...request, ranks: "all", adapter: "auto", cards: [] }), plain);
  for (const adapter of ["cpu", "software"] as const) {
    const four = placeRanks({ ...request, ranks: 4, adapter, cards: [] });
    assert.deepEqual(four.environment, [{}, {}, {}, {}]);
  }
});

Deno.test("more ranks than cards is a mistake that says what there is", () => {
  const place = (ranks: number, cards: Card[]) => () =>
    placeRanks({ ranks, adapter: "auto", cards, mode: "workers", given: {} });
  assert.throws(place(4, TWO_ALIKE), {
    name: "UserError",
    message: "4 devices asked for, 2 GPUs found: 10de:2330 at 0000:01:00.0, 10de:2330 at " +
      "0000:02:00.0; --devices 2, or --adapter cpu to share the processor's cores",
  });
  assert.throws(place(2, TWO_ALIKE.slice(1)), /1 GPU found: .*; --devices 1, or/);
  assert.throws(place(2, []), /2 devices asked for, no GPU found .*; --devices 1, or/);
});

Deno.test("a rank's line marks an address that could not be checked", () => {
  const rank = { rank: 1, size: 2, device: { adapterName: "NVIDIA H100" } };
  const card = TWO_ALIKE[1];
  const line = (alone: boolean, host?: string) =>
    describeRank({ ...rank, host, expect: { ...card, alone } });
  assert.equal(line(true, "node7"), "rank 1 of 2 on node7: NVIDIA H100 (0000:02:00.0)");
  assert.equal(line(false), "rank 1 of 2: NVIDIA H100 (asked for 0000:02:00.0)");
});

gpuTest("another adapter than the one that was asked for is refused", async () => {
  const expect = { ...TWO_ALIKE[0], alone: true };
  await assert.rejects(
    openPlaced({ adapter: "software", environment: {}, expect }),
    (error: Error) =>
      error instanceof UserError &&
      /^asked for the GPU 10de:2330 at 0000:01:00.0, got .* \(10005:0000\): /.test(error.message),
  );
});

/** Runs the program beside this file with the permissions that placing needs. */
async function runProgram(
  request: { ranks: number; adapter: string; cards: Card[] },
  env: Record<string, string> = {},
): Promise<string[]> {
  const unchosen = Object.fromEntries(PLACEMENT_VARIABLES.map((name) => [name, ""]));
  const program = join(import.meta.dirname!, "placement_program.ts");
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-q",
      "--no-check",
      "--no-prompt",
      "--allow-read",
      `--allow-env=${PLACEMENT_VARIABLES}`,
      program,
      JSON.stringify(request),
    ],
    env: { DENO_WEBGPU_BACKEND: "vulkan", ...unchosen, ...env },
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout).trim().split("\n");
}

gpuTest("two software ranks of one process have a device each", async () => {
  const lines = await runProgram({ ranks: 2, adapter: "software", cards: [] });
  assert.equal(lines.length, 2);
  for (const [rank, line] of lines.entries()) {
    assert.match(line, new RegExp(`^rank ${rank} of 2: .*, gpu$`));
  }
});

/** Mesa's software driver, as Debian installs it. */
const LAVAPIPE = "/usr/lib/x86_64-linux-gnu/libvulkan_lvp.so";
const LAYER = "/usr/share/vulkan/implicit_layer.d/VkLayer_MESA_device_select.json";

/** Where the driver stores its vendor id, and behind it that it is of the type "CPU"; -1 if elsewhere. */
function findIdentity(driver: Uint8Array): number {
  const code = [0xc7, 0x46, 0x08, 0x05, 0x00, 0x01, 0x00, 0xc7, 0x46, 0x10, 0x04, 0x00, 0x00, 0x00];
  return driver.findIndex((_, at) => code.every((byte, i) => driver[at + i] === byte));
}

/** Where the driver has the beginning of its name, by which it would be known for what it is. */
function findName(driver: Uint8Array): number {
  const name = new TextEncoder().encode("llvmpipe (LLVM ");
  return driver.findIndex((_, at) => name.every((byte, i) => driver[at + i] === byte));
}

/** Copies of the software driver that pass for an integrated and a discrete card of two makers. */
async function writeDrivers(folder: string, driver: Uint8Array, at: number): Promise<string> {
  const kinds = [["integrated", 0x8086, 1], ["discrete", 0x10de, 2]] as const;
  const manifests = kinds.map(async ([name, vendor, type]) => {
    const copy = driver.slice();
    copy.set(new TextEncoder().encode("made up"), findName(copy));
    new DataView(copy.buffer).setUint32(at + 3, vendor, true);
    copy[at + 10] = type;
    await writeFile(join(folder, `${name}.so`), copy);
    const ICD = { library_path: join(folder, `${name}.so`), api_version: "1.1.230" };
    const manifest = { file_format_version: "1.0.0", ICD };
    await writeFile(join(folder, `${name}.json`), JSON.stringify(manifest));
    return join(folder, `${name}.json`);
  });
  return (await Promise.all(manifests)).join(":");
}

const driver = onLinux && existsSync(LAVAPIPE) && existsSync(LAYER)
  ? new Uint8Array(await readFile(LAVAPIPE))
  : new Uint8Array();
const identity = findIdentity(driver);

gpuTest(
  "each worker of a process gets its own of two cards, the less preferred one too",
  () =>
    inFolder(async (folder) => {
      const VK_DRIVER_FILES = await writeDrivers(folder, driver, identity);
      const cards = [
        { address: "0000:00:02.0", vendor: 0x8086, device: 0 },
        { address: "0000:01:00.0", vendor: 0x10de, device: 0 },
      ];
      const request = { ranks: 2, adapter: "auto", cards };
      const [, ...lines] = await runProgram(request, { VK_DRIVER_FILES });
      assert.match(lines[0], /^rank 0 of 2: .* \(0000:00:02\.0\), gpu$/);
      assert.match(lines[1], /^rank 1 of 2: .* \(0000:01:00\.0\), gpu$/);

      // Where the variables have no effect, that is found out.
      const ineffective = { VK_DRIVER_FILES: join(folder, "discrete.json") };
      const [, first] = await runProgram(request, ineffective);
      assert.match(first, /^UserError: asked for the GPU 8086:0000 .*, got .* \(10de:0000\)/);
    }),
  { ignore: identity < 0 },
);
