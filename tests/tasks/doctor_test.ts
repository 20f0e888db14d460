import assert from "node:assert/strict";
import { diagnosis, type Findings } from "../../tasks/doctor.ts";

const GPU: Findings = {
  os: "linux",
  backend: "vulkan",
  info: {
    vendor: "4318",
    device: "9008",
    description: "NVIDIA H100",
    subgroupMinSize: 32,
    subgroupMaxSize: 32,
    isFallbackAdapter: false,
  },
  limits: { maxStorageBufferBindingSize: 2 ** 32 - 4, maxComputeInvocationsPerWorkgroup: 1024 },
  features: ["bgra8unorm-storage", "shader-f16", "subgroups"],
  cores: 16,
  memory: { total: 128 * 2 ** 30, available: 100 * 2 ** 30 },
};

const LAVAPIPE: Findings = {
  ...GPU,
  info: { ...GPU.info, vendor: "65541", description: "llvmpipe", isFallbackAdapter: true },
  limits: { maxStorageBufferBindingSize: 2 ** 27 },
};

Deno.test("a GPU gets the largest preset", () => {
  const text = diagnosis(GPU);
  assert.match(text, /Driver +NVIDIA\n/);
  assert.match(text, /Computes on +the GPU/);
  assert.match(text, /Features for kernels +shader-f16, subgroups\n.*Other features +bgra8/);
  assert.match(text, /Largest preset +large\+\+ \(token table 252 MiB of 4 GiB\)/);
  assert.match(text, /Warning: on a card without resizable BAR/);
});

Deno.test("the software driver is told from a GPU, and gets the preset whose tables fit its binding", () => {
  const text = diagnosis(LAVAPIPE);
  assert.match(text, /Kind +software/);
  assert.match(text, /Computes on +the CPU/);
  assert.match(text, /Largest preset +base \(token table 97\.5 MiB of 128 MiB\)/);
  const small = { ...LAVAPIPE, limits: { maxStorageBufferBindingSize: 2 ** 25 } };
  assert.match(diagnosis(small), /Largest preset +none of the paper's: .* fit 32 MiB/);
});

Deno.test("the OpenGL fallback is recognised, asked for or not", () => {
  const subgroups = { subgroupMinSize: 4, subgroupMaxSize: 128 };
  const fallback = { ...LAVAPIPE, backend: undefined, info: { ...LAVAPIPE.info, ...subgroups } };
  for (const findings of [fallback, { ...LAVAPIPE, backend: "gl" }]) {
    assert.match(diagnosis(findings), /Backend +OpenGL ES[\s\S]*set DENO_WEBGPU_BACKEND=vulkan/);
  }
  assert.doesNotMatch(diagnosis(LAVAPIPE), /OpenGL/);
});
