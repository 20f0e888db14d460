/**
 * Layer normalisation kernels. A row is read three times: for the mean, for the variance about it (which
 * the one-pass formula would lose to cancellation), and to write the result.
 *
 * @module
 */

import { asMatrix, type Node } from "../graph/tensor.ts";
import type { Binding, Dispatch, Epilogue } from "./kernel.ts";
import type { GpuLowering } from "./lower.ts";
import { type RowFrame, rowFrame } from "./matrix.ts";

/** Kernel of the primitive `layerNorm`. */
export function lowerLayerNorm(node: Node<{ eps: number }>, to: GpuLowering): void {
  const [x, gain, bias] = node.inputs, [y, mean, rstd] = node.outputs;
  to.emit(layerNormForward({ ...asMatrix(x.shape), eps: node.attrs.eps }), {
    x: to.at(x),
    gain: to.at(gain),
    bias: to.at(bias),
    y: to.at(y),
    mean: to.at(mean),
    rstd: to.at(rstd),
  });
}

/** Kernel of the primitive `layerNormGrad`. */
export function lowerLayerNormGrad({ inputs: [g, x, gain, mean, rstd] }: Node, to: GpuLowering) {
  const { epilogue, operands } = to.epilogue();
  to.emit(layerNormBackward({ ...asMatrix(x.shape), epilogue }), {
    g: to.at(g),
    x: to.at(x),
    gain: to.at(gain),
    mean: to.at(mean),
    rstd: to.at(rstd),
    ...operands,
  });
}

/** Kernel of the primitive `rmsNorm`. */
export function lowerRmsNorm(node: Node<{ eps: number }>, to: GpuLowering): void {
  const [x, gain] = node.inputs, [y, rstd] = node.outputs;
  to.emit(rmsNormForward({ ...asMatrix(x.shape), eps: node.attrs.eps }), {
    x: to.at(x),
    gain: to.at(gain),
    y: to.at(y),
    rstd: to.at(rstd),
  });
}

/** Kernel of the primitive `rmsNormGrad`. */
export function lowerRmsNormGrad({ inputs: [g, x, gain, rstd] }: Node, to: GpuLowering): void {
  const { epilogue, operands } = to.epilogue();
  to.emit(rmsNormBackward({ ...asMatrix(x.shape), epilogue }), {
    g: to.at(g),
    x: to.at(x),
    gain: to.at(gain),
    rstd: to.at(rstd),
    ...operands,
  });
}

const read = (name: string, type: string): Binding => ({ name, type, access: "read" });
const write = (name: string, type: string): Binding => ({ name, type, access: "read_write" });

/** Rows are read four columns at a time when their length allows. */
function lanesOf(cols: number) {
  const width: 1 | 4 = cols % 4 === 0 ? 4 : 1;
  return {
    width,
    array: width === 4 ? "array<vec4f>" : "array<f32>",
    type: width === 4 ? "vec4f" : "f32",
    total: (x: string) => width === 4 ? `dot(${x}, vec4f(1.0))` : x,
  };
}

/** What all of these kernels work on: the rows of a matrix. */
interface Rows {
  rows: number;
  cols: number;
}

/** How a kernel of rows differs from the others. */
interface RowKernel {
  name: string;
  bindings: (array: string) => Binding[];
  /** WGSL for one row, which begins at `at`. */
  body: (frame: RowFrame, lanes: ReturnType<typeof lanesOf>) => string;
  epilogue?: Epilogue;
}

function rowLaunch(
  { rows, cols }: Rows,
  { name, bindings, body, epilogue }: RowKernel,
): Dispatch {
  const frame = rowFrame(), lanes = lanesOf(cols);
  return {
    source: {
      name,
      bindings: [...bindings(lanes.array), ...epilogue?.bindings ?? []],
      params: ["rows", "groups", ...epilogue?.params ?? []],
      usesRun: epilogue?.usesRun,
      body: `${epilogue ? `${epilogue.functions}\n` : ""}${frame.functions}
${frame.head}
  let at = row * P.groups;
  ${body(frame, lanes)}
}`,
    },
    params: [rows, cols / lanes.width, ...epilogue?.values ?? []],
    grid: frame.grid(rows),
  };
}

/** Binds x, gain, bias, y, mean, rstd. */
function layerNormForward({ eps, ...rows }: Rows & { eps: number }): Dispatch {
  return rowLaunch(rows, {
    name: "layerNorm",
    bindings: (array) => [
      read("x", array),
      read("gain", array),
      read("bias", array),
      write("y", array),
      write("mean", "array<f32>"),
      write("rstd", "array<f32>"),
    ],
    body: (frame, { width, type, total }) =>
      `let n = f32(P.groups * ${width}u);
  var sums = ${type}();
  ${frame.loop("P.groups", (c) => `sums += x[at + ${c}];`)}
  var average = ${total("sums")};
  ${frame.reduce("average", "sum")}
  average /= n;
  var squares = ${type}();
  ${frame.loop("P.groups", (c) => `let d = x[at + ${c}] - average; squares = fma(d, d, squares);`)}
  var variance = ${total("squares")};
  ${frame.reduce("variance", "sum")}
  let scale = 1.0 / sqrt(variance / n + ${eps});
  ${
        frame.loop(
          "P.groups",
          (c) => `y[at + ${c}] = (x[at + ${c}] - average) * scale * gain[${c}] + bias[${c}];`,
        )
      }
  if (${frame.first}) { mean[row] = average; rstd[row] = scale; }`,
  });
}

/** Binds g, x, gain, mean, rstd, then the epilogue's; the epilogue consumes dx. */
function layerNormBackward({ epilogue, ...rows }: Rows & { epilogue: Epilogue }): Dispatch {
  return rowLaunch(rows, {
    name: "layerNormGrad",
    bindings: (array) => [
      read("g", array),
      read("x", array),
      read("gain", array),
      read("mean", "array<f32>"),
      read("rstd", "array<f32>"),
    ],
    epilogue,
    body: (frame, { width, type, total }) =>
      `let n = f32(P.groups * ${width}u);
  let average = mean[row];
  let scale = rstd[row];
  var s1 = ${type}();
  var s2 = ${type}();
  ${
        frame.loop(
          "P.groups",
          (c) =>
            `let h = g[at + ${c}] * gain[${c}]; s1 += h; s2 = fma(h, (x[at + ${c}] - average) * scale, s2);`,
        )
      }
  var a = ${total("s1")};
  var b = ${total("s2")};
  ${frame.reduce("a", "sum")}
  ${frame.reduce("b", "sum")}
  a /= n;
  b /= n;
  ${
        frame.loop("P.groups", (c) =>
          `let h = g[at + ${c}] * gain[${c}];
    let dx = scale * (h - a - (x[at + ${c}] - average) * scale * b);
    ${epilogue.store("dx", "row", `${c} * ${width}u`, width)}`)
      }`,
  });
}

/** Without mean and bias. Binds x, gain, y, rstd. */
function rmsNormForward({ eps, ...rows }: Rows & { eps: number }): Dispatch {
  return rowLaunch(rows, {
    name: "rmsNorm",
    bindings: (array) => [
      read("x", array),
      read("gain", array),
      write("y", array),
      write("rstd", "array<f32>"),
    ],
    body: (frame, { width, type, total }) =>
      `var squares = ${type}();
  ${frame.loop("P.groups", (c) => `let v = x[at + ${c}]; squares = fma(v, v, squares);`)}
  var square = ${total("squares")};
  ${frame.reduce("square", "sum")}
  let scale = 1.0 / sqrt(square / f32(P.groups * ${width}u) + ${eps});
  ${frame.loop("P.groups", (c) => `y[at + ${c}] = x[at + ${c}] * scale * gain[${c}];`)}
  if (${frame.first}) { rstd[row] = scale; }`,
  });
}

/** Binds g, x, gain, rstd, then the epilogue's; the epilogue consumes dx. */
function rmsNormBackward({ epilogue, ...rows }: Rows & { epilogue: Epilogue }): Dispatch {
  return rowLaunch(rows, {
    name: "rmsNormGrad",
    bindings: (array) => [
      read("g", array),
      read("x", array),
      read("gain", array),
      read("rstd", "array<f32>"),
    ],
    epilogue,
    body: (frame, { width, type, total }) =>
      `let scale = rstd[row];
  var products = ${type}();
  ${
        frame.loop(
          "P.groups",
          (c) => `products = fma(g[at + ${c}] * gain[${c}], x[at + ${c}] * scale, products);`,
        )
      }
  var b = ${total("products")};
  ${frame.reduce("b", "sum")}
  b /= f32(P.groups * ${width}u);
  ${
        frame.loop(
          "P.groups",
          (c) =>
            `let dx = scale * (g[at + ${c}] * gain[${c}] - x[at + ${c}] * scale * b);
    ${epilogue.store("dx", "row", `${c} * ${width}u`, width)}`,
        )
      }`,
  });
}
