import assert from "node:assert/strict";
import { type AdapterFindings, diagnosis, type Findings } from "../../../tasks/devices/doctor.ts";

const H100: AdapterFindings = {
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
};

const LAVAPIPE: AdapterFindings = {
  ...H100,
  info: { ...H100.info, vendor: "65541", description: "llvmpipe", isFallbackAdapter: true },
};

const GPU: Findings = {
  os: "linux",
  backend: "vulkan",
  gpus: [H100],
  processor: "Some CPU",
  cpu: { vectors: true, fused: true, shared: true, wide: false, cores: 16 },
  memory: { total: 128 * 2 ** 30, available: 100 * 2 ** 30 },
};

Deno.test("a GPU is used, and gets the preset whose tables fit its binding", () => {
  const text = diagnosis(GPU);
  assert.match(text, /^GPU\n +Name +NVIDIA H100\n +Driver +NVIDIA\n/);
  assert.match(text, /Computes on +the GPU/);
  assert.match(text, /Features for kernels +shader-f16, subgroups\n.*Other features +bgra8/);
  assert.match(text, /Largest preset +large\+\+ \(token table 252 MiB of 4 GiB\)/);
  assert.match(text, /Warning: on a card without resizable BAR/);
  const of = (maxStorageBufferBindingSize: number) =>
    diagnosis({ ...GPU, gpus: [{ ...H100, limits: { maxStorageBufferBindingSize } }] });
  assert.match(of(2 ** 27), /Largest preset +base \(token table 97\.5 MiB of 128 MiB\)/);
  assert.match(of(2 ** 25), /Largest preset +none of the paper's: .* fit 32 MiB/);
});

Deno.test("all GPUs are shown, and the processor beside them", () => {
  const second = { ...H100, info: { ...H100.info, vendor: "32902", description: "Intel Arc" } };
  const text = diagnosis({ ...GPU, gpus: [H100, second] });
  assert.match(text, /NVIDIA H100[\s\S]*Intel Arc/);
  assert.match(
    text,
    /CPU\n +Name +Some CPU\n +Cores +16\n +WebAssembly +128-bit vectors, fused multiply-add, threads\n +Memory +128 GiB, 100 GiB available/,
  );
  assert.match(text, /Software adapter, for tests\n +None +deno task setup installs it/);
});

Deno.test("without a GPU the processor computes, whether there is a software adapter or not", () => {
  for (const software of [undefined, LAVAPIPE]) {
    const text = diagnosis({ ...GPU, gpus: [], software });
    assert.match(text, /^GPU\n +None +WebGPU offers none\n/);
    assert.match(text, /Computes on +the CPU, 16 threads/);
    assert.match(
      text,
      /Largest preset +large\+\+ \(weights, gradients and moments .* of 100 GiB\)/,
    );
    assert.equal(/Name +llvmpipe/.test(text), software !== undefined);
    assert.match(text, /Warning: no GPU was found/);
  }
  const small = { total: 2 ** 30, available: 2 ** 20 };
  assert.match(diagnosis({ ...GPU, gpus: [], memory: small }), /Largest preset +none: 1 MiB of/);
  const of = (cpu: Partial<Findings["cpu"]>) =>
    diagnosis({ ...GPU, gpus: [], cpu: { ...GPU.cpu, ...cpu } });
  assert.match(of({ shared: false }), /Computes on +the CPU, 1 thread\n[\s\S]*on one thread/);
  assert.match(of({ vectors: false }), /Computes on +nothing: .* no 128-bit vectors/);
});

Deno.test("the OpenGL fallback is recognised, asked for or not", () => {
  const subgroups = { subgroupMinSize: 4, subgroupMaxSize: 128 };
  const gpus = [{ ...H100, info: { ...H100.info, ...subgroups } }];
  for (const findings of [{ ...GPU, backend: undefined, gpus }, { ...GPU, backend: "gl" }]) {
    assert.match(diagnosis(findings), /Backend +OpenGL ES[\s\S]*set DENO_WEBGPU_BACKEND=vulkan/);
  }
  assert.doesNotMatch(diagnosis(GPU), /OpenGL/);
});
