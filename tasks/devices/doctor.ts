/**
 * What the toolkit finds on a machine, and what it will do with it: the text of `deno task doctor`.
 *
 * @module
 */

import { parameterCount, preset, PRESETS } from "../../models/mod.ts";
import { type CpuSupport, supportOf } from "../../ops/cpu/support.ts";
import { isFallback } from "../../ops/gpu/device.ts";
import { featuresOf, processorName } from "./processor.ts";

/** Features that kernels can use. This Deno grants some without listing them: ask for each. */
const COMPUTE_FEATURES: readonly GPUFeatureName[] = ["subgroups", "shader-f16", "timestamp-query"];

/** Limits that decide what fits and how kernels are shaped, with how they are written. */
const LIMITS = [
  ["maxStorageBufferBindingSize", "bytes"],
  ["maxBufferSize", "bytes"],
  ["maxComputeWorkgroupStorageSize", "bytes"],
  ["maxComputeInvocationsPerWorkgroup", "count"],
  ["maxComputeWorkgroupsPerDimension", "count"],
  ["maxStorageBuffersPerShaderStage", "count"],
] as const;

/** Makers by PCI vendor number, which is all that WebGPU tells here; with the likely driver. */
const DRIVERS: Readonly<Record<string, string>> = {
  4098: "AMD",
  4203: "Apple",
  4318: "NVIDIA",
  5045: "ARM Mali",
  20803: "Qualcomm Adreno",
  32902: "Intel",
  65541: "Mesa lavapipe (computes on the CPU)",
};

/** The token tables of the paper's sizes: one f32 tensor, `rows` by `hidden`. */
const TABLES = [
  { preset: "base", rows: 33_280, hidden: 768 },
  { preset: "base++", rows: 64_512, hidden: 768 },
  { preset: "large++", rows: 64_512, hidden: 1024 },
] as const;

/** A desktop card's window on its memory, past which a driver check can fail (wgpu 29). */
const SMALL_BAR_NOTE =
  "on a card without resizable BAR, a single buffer of about 200 MiB or more " +
  "can fail as out of memory; if that happens, switch resizable BAR on in the firmware";

/** What was found out about an adapter. */
export interface AdapterFindings {
  /** The adapter's own words. */
  info: Pick<
    GPUAdapterInfo,
    | "vendor"
    | "device"
    | "description"
    | "subgroupMinSize"
    | "subgroupMaxSize"
    | "isFallbackAdapter"
  >;
  /** The adapter's limits by name. */
  limits: Readonly<Record<string, number>>;
  /** The features that can be had, whether listed or not. */
  features: readonly string[];
}

/** What was found out about a machine. */
export interface Findings {
  /** `Deno.build.os`. */
  os: string;
  /** `DENO_WEBGPU_BACKEND`, as it was when adapters were looked for. */
  backend: string | undefined;
  /** GPUs that WebGPU offers, the preferred one first. */
  gpus: readonly AdapterFindings[];
  /** The driver that computes on the processor, if it is installed. */
  software?: AdapterFindings;
  /** The processor's name, if it is known. */
  processor?: string;
  /** What the runtime's WebAssembly can do with it. */
  cpu: CpuSupport;
  /** Memory of the machine in bytes. */
  memory: { total: number; available: number };
}

/**
 * Looks at adapters, processor and memory. Needs `--allow-env=DENO_WEBGPU_BACKEND` and
 * `--allow-sys=systemMemoryInfo`; with `--allow-sys=cpus` it knows the processor's name.
 *
 * @example
 * ```ts ignore
 * import { examine } from "./doctor.ts";
 *
 * console.log((await examine()).cpu);
 * ```
 */
export async function examine(): Promise<Findings> {
  const gpus: AdapterFindings[] = [];
  for (const powerPreference of ["high-performance", "low-power"] as const) {
    const adapter = await navigator.gpu?.requestAdapter({ powerPreference });
    if (!adapter || isFallback(adapter.info)) continue;
    const { vendor, device, description } = adapter.info;
    const isKnown = gpus.some(({ info }) =>
      info.vendor === vendor && info.device === device && info.description === description
    );
    if (!isKnown) gpus.push(await examineAdapter(adapter));
  }
  const software = await navigator.gpu?.requestAdapter({ forceFallbackAdapter: true });
  const { total, available } = Deno.systemMemoryInfo();
  return {
    os: Deno.build.os,
    backend: Deno.env.get("DENO_WEBGPU_BACKEND"),
    gpus,
    software: software ? await examineAdapter(software) : undefined,
    processor: processorName(),
    cpu: supportOf(),
    memory: { total, available },
  };
}

async function examineAdapter(adapter: GPUAdapter): Promise<AdapterFindings> {
  const limits: Record<string, number> = {};
  for (const name in adapter.limits) {
    const value = adapter.limits[name as keyof GPUSupportedLimits];
    if (typeof value === "number") limits[name] = value;
  }
  const features = new Set<string>(adapter.features);
  for (const feature of COMPUTE_FEATURES) {
    if (await grants(adapter, feature)) features.add(feature);
  }
  return { info: adapter.info, limits, features: [...features].sort() };
}

async function grants(adapter: GPUAdapter, feature: GPUFeatureName): Promise<boolean> {
  try {
    const device = await adapter.requestDevice({ requiredFeatures: [feature] });
    device.destroy();
    return true;
  } catch {
    return false;
  }
}

/** A heading, and lines of a name and what there is to say about it. */
type Section = [title: string, rows: [string, string][]];

/**
 * The findings in words, with what follows from them.
 *
 * @example
 * ```ts
 * import { diagnosis } from "./doctor.ts";
 * import assert from "node:assert/strict";
 *
 * const text = diagnosis({
 *   os: "linux",
 *   backend: "vulkan",
 *   gpus: [],
 *   cpu: { vectors: true, fused: true, shared: true, wide: true, cores: 2 },
 *   memory: { total: 2 ** 34, available: 2 ** 33 },
 * });
 * assert.match(text, /Computes on +the CPU, 2 threads/);
 * assert.match(text, /Largest preset +base\+\+ \(weights, gradients and moments/);
 * ```
 */
export function diagnosis(findings: Findings): string {
  const { gpus, software, cpu, processor, memory } = findings;
  const [gpu] = gpus;
  const sections: Section[] = [
    ...gpus.flatMap((adapter) => adapterSections(adapter, findings)),
    ...(gpu ? [] : [["GPU", [["None", "WebGPU offers none"]]] satisfies Section]),
    [
      "Software adapter, for tests",
      software ? adapterRows(software, findings) : [[
        "None",
        "deno task setup installs it",
      ]],
    ],
    ["CPU", [
      ...(processor ? [["Name", processor] as [string, string]] : []),
      ["Cores", `${cpu.cores}`],
      ["WebAssembly", listed(featuresOf(cpu))],
      ["Memory", `${inBytes(memory.total)}, ${inBytes(memory.available)} available`],
    ]],
    ["What the toolkit will do", [
      ["Computes on", gpu ? "the GPU" : cpuText(cpu)],
      [
        "Largest preset",
        gpu
          ? largestByBinding(gpu.limits.maxStorageBufferBindingSize)
          : largestByMemory(memory.available),
      ],
    ]],
  ];
  const column = 4 + Math.max(...sections.flatMap(([, rows]) => rows.map(([key]) => key.length)));
  const text = sections.map(([title, rows]) =>
    `${title}\n` + rows.map(([key, value]) => `  ${key.padEnd(column - 2)}${value}`).join("\n")
  );
  const warnings = warningsOf(findings).map((warning) => `Warning: ${warning}.`);
  return [...text, ...(warnings.length ? [warnings.join("\n")] : [])].join("\n\n");
}

function adapterSections(adapter: AdapterFindings, findings: Findings): Section[] {
  const { limits } = adapter;
  return [
    ["GPU", adapterRows(adapter, findings)],
    [
      "Its limits",
      LIMITS.filter(([name]) => name in limits).map(([name, style]) => [
        name,
        style === "bytes" ? inBytes(limits[name]) : limits[name].toLocaleString("en-US"),
      ]),
    ],
  ];
}

function adapterRows(adapter: AdapterFindings, findings: Findings): [string, string][] {
  const { info, features } = adapter;
  return [
    ["Name", info.description || "unnamed"],
    ["Driver", DRIVERS[info.vendor] ?? `unknown (vendor ${info.vendor})`],
    ["Backend", backendName(adapter, findings)],
    ["Subgroups", sizes(info.subgroupMinSize, info.subgroupMaxSize)],
    ["Features for kernels", listed(features.filter(isForKernels))],
    ["Other features", listed(features.filter((name) => !isForKernels(name)))],
  ];
}

function cpuText({ vectors, shared, cores }: CpuSupport): string {
  if (!vectors) return "nothing: this runtime's WebAssembly has no 128-bit vectors";
  const threads = shared ? cores : 1;
  return `the CPU, ${threads} ${threads === 1 ? "thread" : "threads"}`;
}

function isForKernels(feature: string): boolean {
  return (COMPUTE_FEATURES as readonly string[]).includes(feature);
}

function listed(names: readonly string[]): string {
  return names.join(", ") || "none";
}

/** Nothing in WebGPU names the backend; it follows from the system and what was asked for. */
function backendName(adapter: AdapterFindings, { os, backend }: Findings): string {
  if (isOpenGl(adapter, { os, backend })) return "OpenGL ES (a fallback)";
  if (backend) return `${backend} (DENO_WEBGPU_BACKEND)`;
  if (os === "darwin") return "Metal";
  return os === "windows" ? "Vulkan or Direct3D 12" : "Vulkan";
}

/** wgpu's OpenGL adapters state the widest range of subgroup sizes, having no way to know. */
function isOpenGl(
  { info }: AdapterFindings,
  { os, backend }: Pick<Findings, "os" | "backend">,
): boolean {
  if (backend) return /(^|,)\s*(gl|opengl|gles)\b/i.test(backend);
  return os === "linux" && info.subgroupMinSize === 4 && info.subgroupMaxSize === 128;
}

function largestByBinding(binding: number): string {
  const bytes = ({ rows, hidden }: typeof TABLES[number]) => rows * hidden * 4;
  const fitting = TABLES.filter((table) => bytes(table) <= binding).at(-1);
  if (!fitting) return `none of the paper's: a token table must fit ${inBytes(binding)}`;
  return `${fitting.preset} (token table ${inBytes(bytes(fitting))} of ${inBytes(binding)})`;
}

/** Intermediate values come on top: how many is a matter of `--micro-batch`. */
function largestByMemory(available: number): string {
  const bytes = (name: typeof PRESETS[number]) => 16 * parameterCount(preset(name).model);
  const fitting = PRESETS.filter((name) => bytes(name) <= available).at(-1);
  if (!fitting) return `none: ${inBytes(available)} of memory are available`;
  return `${fitting} (weights, gradients and moments ${inBytes(bytes(fitting))} of ${
    inBytes(available)
  })`;
}

function warningsOf(findings: Findings): string[] {
  const warnings: string[] = [];
  const { os, gpus: [gpu], software, cpu } = findings;
  const used = gpu ?? software;
  if (used && isOpenGl(used, findings)) {
    warnings.push(
      "this is the OpenGL fallback, slower and untested; set DENO_WEBGPU_BACKEND=vulkan",
    );
  }
  if (!gpu) {
    warnings.push("no GPU was found: fine for the tiny presets, too slow for the paper's sizes");
    if (!cpu.shared) warnings.push("without shared memory the CPU computes on one thread");
  } else if (os === "linux" && gpu.info.vendor === "4318") {
    warnings.push(SMALL_BAR_NOTE);
  }
  return warnings;
}

function sizes(min: number, max: number): string {
  return min === max ? `of ${min} lanes` : `of ${min} to ${max} lanes`;
}

function inBytes(bytes: number): string {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), units.length - 1);
  return `${Number((bytes / 1024 ** power).toFixed(1))} ${units[power]}`;
}
