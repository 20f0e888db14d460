/**
 * Which rank computes on which graphics card.
 *
 * WebGPU offers one adapter, the best; there is no way to ask for the second card. What there is are
 * environment variables of the Vulkan loader and of Mesa's device-select layer, read whenever an adapter
 * is asked for. They are the whole process's, so its workers open their devices one after the other
 * (`inTurn` of `communicator.ts`).
 *
 * Permissions: `--allow-run=ls,cat` to find the cards (Deno lets nobody read `/sys` itself without
 * `--allow-all`), and {@link PLACEMENT_VARIABLES} for `--allow-env`.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";
import { GpuDevice } from "../../ops/gpu/device.ts";
import { type Device, openDevice, type OpenOptions } from "../../ops/mod.ts";
import type { AdapterChoice } from "../../ops/open_device.ts";

/** A graphics card on the PCI bus. */
export interface Card {
  /** Its place on the bus: "0000:01:00.0". */
  address: string;
  /** PCI number of the maker, as in `GPUAdapterInfo`: 0x10de is NVIDIA. */
  vendor: number;
  /** PCI number of the model. */
  device: number;
}

/** The card that a rank asks for. */
export interface Expected extends Card {
  /** Whether vendor and model name this card alone on this machine, so that they can be checked. */
  alone: boolean;
}

/** Where one rank computes. */
export interface RankPlacement {
  /** Variables to set before the rank opens its device; an empty value removes the variable. */
  environment: Record<string, string>;
  /** What the user should know, a line each; empty when all is plain. */
  notes: string[];
  /** The card that should come; undefined where nothing was asked for. */
  expect: Expected | undefined;
}

/** Where the ranks of one machine compute. */
export interface Placement {
  /** By rank: variables to set before it opens its device; an empty value removes the variable. */
  environment: Record<string, string>[];
  /** What the user should know, a line each; empty when all is plain. */
  notes: string[];
  /** By rank: the card that should come; undefined where nothing was asked for. */
  expect: (Expected | undefined)[];
}

/** How to place the ranks of one machine. */
export interface PlacementRequest {
  /** How many; "all" is one for each card, and one where there is no card. */
  ranks: number | "all";
  /** Which adapter. */
  adapter: AdapterChoice;
  /** The machine's cards, see {@link findCards}. */
  cards: readonly Card[];
  /** Whether ranks share a process, and so its environment. */
  mode: "workers" | "processes";
  /** The values that {@link PLACEMENT_VARIABLES} have already; the process's own if absent. */
  given?: Readonly<Record<string, string>>;
}

/** How to place one process that a launcher such as mpirun has started. */
export interface RankRequest extends Pick<PlacementRequest, "adapter" | "cards" | "given"> {
  /** Its number among the ranks of this machine, from 0. */
  localRank: number;
  /** How many ranks this machine has. */
  localSize: number;
}

/** How a rank opens its device. */
export interface OpenRequest extends Omit<OpenOptions, "gpu"> {
  /** This rank's part of the placement. */
  environment: Readonly<Record<string, string>>;
  /** This rank's part of the placement. */
  expect: Expected | undefined;
}

/** Variables that choose a card. Where the user has set one, the choice is the user's. */
const CHOOSING = ["VK_LOADER_DEVICE_SELECT", "MESA_VK_DEVICE_SELECT", "DRI_PRIME"] as const;

/** Shows one card only: an integrated one would not be taken while a discrete one is in sight. */
const HIDE_OTHERS = "MESA_VK_DEVICE_SELECT_FORCE_DEFAULT_DEVICE";

/** The environment variables that placing reads and sets, for `--allow-env`. */
export const PLACEMENT_VARIABLES: readonly string[] = [...CHOOSING, HIDE_OTHERS];

/**
 * Kernel drivers of cards that Vulkan computes on. A card with another one does not count: the display
 * chips of servers' management controllers (`ast`, `mgag200`) and of virtual machines (`bochs-drm`,
 * `cirrus`, `qxl`, `vmwgfx`) cannot compute, and a card that was handed to a virtual machine
 * (`vfio-pci`) is not ours.
 */
const DRIVERS = ["nvidia", "nouveau", "amdgpu", "i915", "xe"];

/** Where NVIDIA's driver lists the cards that this container may use; `/sys` shows all of them. */
const NVIDIA_CARDS = "/proc/driver/nvidia/gpus";

/**
 * The graphics cards of this machine, by address. None where they cannot be counted: on other systems
 * than Linux, without the permission to run `ls` and `cat`, or where `/sys` is hidden.
 *
 * Only devices of the class "display" count. Accelerators without any graphics (class 0x12) have no
 * Vulkan driver to our knowledge.
 *
 * @param root where the kernel shows the PCI bus
 * @param nvidia where NVIDIA's driver lists the cards that may be used here
 *
 * @example
 * ```ts
 * import { findCards } from "./placement.ts";
 * import assert from "node:assert/strict";
 *
 * assert.deepEqual(findCards("/nowhere"), []);
 * ```
 */
export function findCards(root = "/sys/bus/pci", nvidia = NVIDIA_CARDS): Card[] {
  if (Deno.build.os !== "linux" || !mayRun("ls") || !mayRun("cat")) return [];
  const devices = `${root}/devices`;
  const [addresses, usable] = listFolders([devices, nvidia]);
  if (addresses.length === 0) return [];
  const cards: Card[] = [];
  const files = addresses.map((address) => `${devices}/${address}/uevent`);
  for (const fields of recordsIn(outputOf("cat", files))) {
    const { DRIVER, PCI_CLASS, PCI_ID = "", PCI_SLOT_NAME: address } = fields;
    const isDisplay = PCI_CLASS?.padStart(6, "0").startsWith("03");
    if (!isDisplay || !DRIVERS.includes(DRIVER)) continue;
    if (DRIVER === "nvidia" && usable.length > 0 && !usable.includes(address)) continue;
    const [vendor, device] = PCI_ID.split(":").map((id) => parseInt(id, 16));
    cards.push({ address, vendor, device });
  }
  return cards.sort((a, b) => a.address < b.address ? -1 : 1);
}

/** Addresses in each folder; none where there is no such folder. */
function listFolders(folders: string[]): string[][] {
  const sections = outputOf("ls", folders).split("\n\n").map((text) => text.trim().split("\n"));
  return folders.map((folder) => {
    const [, ...names] = sections.find(([header]) => header === `${folder}:`) ?? [];
    return names.filter((name) => /^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$/.test(name));
  });
}

/** The fields of `uevent` files, printed one after the other; `DRIVER`, if any, is a file's first. */
function recordsIn(text: string): Record<string, string>[] {
  const records: Record<string, string>[] = [];
  for (const [, key, value] of text.matchAll(/^(\w+)=(.*)$/gm)) {
    const last = records.at(-1);
    if (last && key !== "DRIVER" && !(key in last)) last[key] = value;
    else records.push({ [key]: value });
  }
  return records;
}

/** What a command prints; what it could not read is missing from that. */
function outputOf(program: string, args: string[]): string {
  const { stdout } = new Deno.Command(program, { args, stdin: "null", stderr: "null" })
    .outputSync();
  return new TextDecoder().decode(stdout);
}

function mayRun(command: string): boolean {
  return Deno.permissions.querySync({ name: "run", command }).state === "granted";
}

/**
 * Places the ranks of one machine, a card each: first those of the most frequent model, so that ranks
 * that work in step are equally fast, and among them by address.
 *
 * One rank is not placed: it gets the adapter that WebGPU prefers.
 *
 * Call it before any rank opens its device: what a rank sets would be taken for the user's choice.
 *
 * @throws {UserError} there are fewer cards than ranks
 *
 * @example
 * ```ts
 * import { placeRanks } from "./placement.ts";
 * import assert from "node:assert/strict";
 *
 * const cards = [
 *   { address: "0000:01:00.0", vendor: 0x10de, device: 0x2330 },
 *   { address: "0000:02:00.0", vendor: 0x1002, device: 0x744c },
 * ];
 * const { environment } = placeRanks({ ranks: "all", adapter: "auto", cards, mode: "workers", given: {} });
 * assert.equal(environment[1].MESA_VK_DEVICE_SELECT, "1002:744c");
 * ```
 */
export function placeRanks(request: PlacementRequest): Placement {
  const { adapter, cards, mode } = request;
  const size = ranksOf(request);
  const none = (notes: string[]): Placement => ({
    environment: Array.from({ length: size }, () => ({})),
    notes,
    expect: Array.from({ length: size }, () => undefined),
  });
  if (isOnCpu(adapter) || size === 1) return none([]);
  const given = request.given ?? givenVariables();
  const chosen = CHOOSING.filter((name) => given[name]);
  if (chosen.length > 0) return none([chosenByUser(chosen, given, mode)]);
  if (size > cards.length) throw tooFew(size, cards);

  const expect = inOrder(cards).slice(0, size).map((card): Expected => ({
    ...card,
    alone: cards.filter((other) => modelOf(other) === modelOf(card)).length === 1,
  }));
  const settings = expect.map((card) => settingsOf(card));
  const names = [...new Set(settings.flatMap((each) => Object.keys(each)))];
  return {
    // All ranks name the same variables: what one rank has set must not choose for the next.
    environment: settings.map((each) =>
      Object.fromEntries(names.filter((n) => !given[n]).map((n) => [n, each[n] ?? ""]))
    ),
    notes: notesOn(expect),
    expect,
  };
}

/**
 * Places one process under MPI: the card of its local rank.
 *
 * @throws {UserError} the machine has fewer cards than ranks
 *
 * @example
 * ```ts
 * import { placeRank } from "./placement.ts";
 * import assert from "node:assert/strict";
 *
 * const cards = [1, 2].map((n) => ({ address: `0000:0${n}:00.0`, vendor: 0x10de, device: 0x2330 }));
 * const rank = placeRank({ localRank: 1, localSize: 2, adapter: "auto", cards, given: {} });
 * assert.equal(rank.environment.DRI_PRIME, "pci-0000_02_00_0");
 * ```
 */
export function placeRank({ localRank, localSize, ...request }: RankRequest): RankPlacement {
  const { environment, notes, expect } = placeRanks({
    ...request,
    ranks: localSize,
    mode: "processes",
  });
  return { environment: environment[localRank], notes, expect: expect[localRank] };
}

function ranksOf({ ranks, adapter, cards }: PlacementRequest): number {
  if (ranks !== "all") return ranks;
  return isOnCpu(adapter) ? 1 : Math.max(1, cards.length);
}

function isOnCpu(adapter: AdapterChoice): boolean {
  return adapter === "cpu" || adapter === "software";
}

/** What the process's own environment says already. */
function givenVariables(): Record<string, string> {
  return Object.fromEntries(PLACEMENT_VARIABLES.map((name) => [name, Deno.env.get(name) ?? ""]));
}

function chosenByUser(
  names: readonly string[],
  given: Readonly<Record<string, string>>,
  mode: PlacementRequest["mode"],
): string {
  const set = names.map((name) => `${name}=${given[name]}`).join(" ");
  return mode === "processes"
    ? `${set} chooses the card; make sure that every rank has another`
    : `${set} chooses the card of all ranks, which will share it; unset it to give each its own`;
}

/** More ranks were asked for than there are cards. */
export function tooFew(ranks: number, cards: readonly Card[]): UserError {
  const found = cards.length === 0
    ? "no GPU found (they are counted on Linux only, by the PCI bus)"
    : `${cards.length} ${cards.length === 1 ? "GPU" : "GPUs"} found: ${
      cards.map(named).join(", ")
    }`;
  return new UserError(
    `${ranks} devices asked for, ${found}; --devices ${Math.max(1, cards.length)}, ` +
      "or --adapter cpu to share the processor's cores",
  );
}

/** Models one after the other, the most frequent first; each one's cards by address. */
function inOrder(cards: readonly Card[]): Card[] {
  const models = new Map<string, Card[]>();
  for (const card of [...cards].sort((a, b) => a.address < b.address ? -1 : 1)) {
    models.set(modelOf(card), [...models.get(modelOf(card)) ?? [], card]);
  }
  return [...models.values()].sort((a, b) => b.length - a.length).flat();
}

function settingsOf(card: Expected): Record<string, string> {
  const model = modelOf(card);
  const [vendor, device] = model.split(":");
  return {
    VK_LOADER_DEVICE_SELECT: `0x${vendor}:0x${device}`,
    // Mesa's layer looks at the model first: where that is not enough, it must not be asked.
    ...(card.alone
      ? { MESA_VK_DEVICE_SELECT: model }
      : { DRI_PRIME: `pci-${card.address.replace(/[:.]/g, "_")}` }),
    [HIDE_OTHERS]: "1",
  };
}

function notesOn(expect: readonly Expected[]): string[] {
  const notes: string[] = [];
  const alike = expect.filter((card) => !card.alone);
  if (alike.length > 0) {
    notes.push(
      `cards of one model (${[...new Set(alike.map(modelOf))].join(", ")}) are told apart by ` +
        "DRI_PRIME, which takes a current Mesa device-select layer, and WebGPU cannot show which " +
        "one came: see that all are busy (nvidia-smi while it runs); if not, start one process " +
        "per GPU, each in a container with its own (docs/clusters.md)",
    );
  }
  const models = new Set(expect.map(modelOf));
  if (models.size > 1) {
    notes.push(`the cards differ (${[...models].join(", ")}): the slowest sets the pace of all`);
  }
  return notes;
}

function modelOf({ vendor, device }: { vendor: number; device: number }): string {
  return [vendor, device].map((id) => id.toString(16).padStart(4, "0")).join(":");
}

function named(card: Card): string {
  return `${modelOf(card)} at ${card.address}`;
}

/**
 * Opens the device of a rank: sets its variables, asks for the adapter, and checks that the one that
 * came is the one that was asked for. Cards of one model cannot be told apart by what WebGPU shows, so
 * that the check knows the model only.
 *
 * Workers of one process call it one after the other, and before they ask for any adapter.
 *
 * @throws {UserError} there is no such adapter, or another one came
 *
 * @example
 * ```ts
 * import { openPlaced } from "./placement.ts";
 *
 * const device = await openPlaced({ adapter: "cpu", environment: {}, expect: undefined });
 * device.destroy();
 * ```
 */
export async function openPlaced(request: OpenRequest): Promise<Device> {
  const { environment, expect, ...options } = request;
  for (const [name, value] of Object.entries(environment)) {
    if (value === "") Deno.env.delete(name);
    else Deno.env.set(name, value);
  }
  const device = await openDevice(options);
  if (!expect) return device;
  const { vendor, device: model } = device instanceof GpuDevice
    ? device.cardIds
    : { vendor: "", device: "" };
  const came = modelOf({ vendor: Number(vendor), device: Number(model) });
  if (came !== modelOf(expect)) {
    device.destroy();
    throw new UserError(
      `asked for the GPU ${named(expect)}, got ${device.adapterName} (${came}): choosing needs ` +
        "Mesa's device-select layer (on Debian: apt-get install mesa-vulkan-drivers) or a current " +
        "Vulkan loader; else start one process per GPU, each in a container with its own " +
        "(docs/clusters.md)",
    );
  }
  return device;
}

/** A rank and its device, see {@link describeRank}. */
export interface RankDescription {
  /** From 0. */
  rank: number;
  /** Ranks in all. */
  size: number;
  /** The machine's name, where there are several. */
  host?: string;
  /** What was opened. */
  device: { readonly adapterName: string };
  /** The card that was asked for, if any. */
  expect?: Expected;
}

/**
 * One line on where a rank computes. An address that could not be checked is marked as asked for.
 *
 * @example
 * ```ts
 * import { describeRank } from "./placement.ts";
 * import assert from "node:assert/strict";
 *
 * const device = { adapterName: "NVIDIA H100" };
 * assert.equal(describeRank({ rank: 2, size: 4, host: "node7", device }), "rank 2 of 4 on node7: NVIDIA H100");
 * ```
 */
export function describeRank({ rank, size, host, device, expect }: RankDescription): string {
  const where = host ? ` on ${host}` : "";
  const card = expect ? ` (${expect.alone ? "" : "asked for "}${expect.address})` : "";
  return `rank ${rank} of ${size}${where}: ${device.adapterName}${card}`;
}
