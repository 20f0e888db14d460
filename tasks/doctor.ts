/**
 * What the toolkit finds on a machine, and what it will do with it: the text of `deno task doctor`.
 *
 * @module
 */

import { isFallback } from "../ops/gpu/device.ts";

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

/** What was found out about a machine. */
export interface Findings {
  /** `Deno.build.os`. */
  os: string;
  /** `DENO_WEBGPU_BACKEND`, as it was when the adapter was found. */
  backend: string | undefined;
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
  /** Logical processors. */
  cores: number;
  /** Memory of the machine in bytes. */
  memory: { total: number; available: number };
}

/**
 * Looks at an adapter and at the machine. Needs `--allow-env=DENO_WEBGPU_BACKEND` and
 * `--allow-sys=systemMemoryInfo`.
 *
 * @example
 * ```ts ignore
 * import { examine } from "./doctor.ts";
 * import { ensureAdapter } from "./setup.ts";
 *
 * console.log((await examine(await ensureAdapter())).features);
 * ```
 */
export async function examine(adapter: GPUAdapter): Promise<Findings> {
  const limits: Record<string, number> = {};
  for (const name in adapter.limits) {
    const value = adapter.limits[name as keyof GPUSupportedLimits];
    if (typeof value === "number") limits[name] = value;
  }
  const features = new Set<string>(adapter.features);
  for (const feature of COMPUTE_FEATURES) {
    if (await grants(adapter, feature)) features.add(feature);
  }
  const { total, available } = Deno.systemMemoryInfo();
  return {
    os: Deno.build.os,
    backend: Deno.env.get("DENO_WEBGPU_BACKEND"),
    info: adapter.info,
    limits,
    features: [...features].sort(),
    cores: navigator.hardwareConcurrency,
    memory: { total, available },
  };
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
 *   info: {
 *     vendor: "65541",
 *     device: "0",
 *     description: "llvmpipe",
 *     subgroupMinSize: 8,
 *     subgroupMaxSize: 8,
 *     isFallbackAdapter: true,
 *   },
 *   limits: { maxStorageBufferBindingSize: 2 ** 27 },
 *   features: ["shader-f16"],
 *   cores: 2,
 *   memory: { total: 2 ** 34, available: 2 ** 33 },
 * });
 * assert.match(text, /Computes on +the CPU/);
 * assert.match(text, /Largest preset +base \(token table 97\.5 MiB of 128 MiB\)/);
 * ```
 */
export function diagnosis(findings: Findings): string {
  const { info, limits, features, cores, memory } = findings;
  const software = isFallback(info);
  const sections: [string, [string, string][]][] = [
    ["Adapter", [
      ["Name", info.description || "unnamed"],
      ["Driver", DRIVERS[info.vendor] ?? `unknown (vendor ${info.vendor})`],
      ["Kind", software ? "software: computes on the CPU" : "GPU"],
      ["Backend", backendName(findings)],
      ["Subgroups", sizes(info.subgroupMinSize, info.subgroupMaxSize)],
      ["Features for kernels", listed(features.filter(isForKernels))],
      ["Other features", listed(features.filter((name) => !isForKernels(name)))],
    ]],
    [
      "Limits",
      LIMITS.filter(([name]) => name in limits).map(([name, style]) => [
        name,
        style === "bytes" ? inBytes(limits[name]) : limits[name].toLocaleString("en-US"),
      ]),
    ],
    ["Machine", [
      ["Cores", `${cores}`],
      ["Memory", `${inBytes(memory.total)}, ${inBytes(memory.available)} available`],
    ]],
    ["What the toolkit will do", [
      ["Computes on", software ? "the CPU" : "the GPU"],
      ["Largest preset", largestPreset(limits.maxStorageBufferBindingSize)],
    ]],
  ];
  const column = 4 + Math.max(...sections.flatMap(([, rows]) => rows.map(([key]) => key.length)));
  const text = sections.map(([title, rows]) =>
    `${title}\n` + rows.map(([key, value]) => `  ${key.padEnd(column - 2)}${value}`).join("\n")
  );
  const warnings = warningsOf(findings).map((warning) => `Warning: ${warning}.`);
  return [...text, ...(warnings.length ? [warnings.join("\n")] : [])].join("\n\n");
}

function isForKernels(feature: string): boolean {
  return (COMPUTE_FEATURES as readonly string[]).includes(feature);
}

function listed(names: readonly string[]): string {
  return names.join(", ") || "none";
}

/** Nothing in WebGPU names the backend; it follows from the system and what was asked for. */
function backendName(findings: Findings): string {
  if (isOpenGl(findings)) return "OpenGL ES (a fallback)";
  const { os, backend } = findings;
  if (backend) return `${backend} (DENO_WEBGPU_BACKEND)`;
  if (os === "darwin") return "Metal";
  return os === "windows" ? "Vulkan or Direct3D 12" : "Vulkan";
}

/** wgpu's OpenGL adapters state the widest range of subgroup sizes, having no way to know. */
function isOpenGl({ os, backend, info }: Findings): boolean {
  if (backend) return /(^|,)\s*(gl|opengl|gles)\b/i.test(backend);
  return os === "linux" && info.subgroupMinSize === 4 && info.subgroupMaxSize === 128;
}

function largestPreset(binding: number): string {
  const bytes = ({ rows, hidden }: typeof TABLES[number]) => rows * hidden * 4;
  const fitting = TABLES.filter((table) => bytes(table) <= binding).at(-1);
  if (!fitting) return `none of the paper's: a token table must fit ${inBytes(binding)}`;
  return `${fitting.preset} (token table ${inBytes(bytes(fitting))} of ${inBytes(binding)})`;
}

function warningsOf(findings: Findings): string[] {
  const warnings: string[] = [];
  if (isOpenGl(findings)) {
    warnings.push(
      "this is the OpenGL fallback, slower and untested; set DENO_WEBGPU_BACKEND=vulkan",
    );
  }
  if (isFallback(findings.info)) {
    warnings.push(
      "no GPU was found: fine for the tiny presets and for tests, too slow for the paper's sizes",
    );
  } else if (findings.os === "linux" && findings.info.vendor === "4318") {
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
