/**
 * Layer normalisation kernels. A row is read three times: for the mean, for the variance about it (which
 * the one-pass formula would lose to cancellation), and to write the result.
 *
 * @module
 */

import type { Binding, DeviceClass, Epilogue, Launch } from "../kernel.ts";
import { rowFrame } from "./matrix.ts";

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

/** Binds x, gain, bias, y, mean, rstd. */
export function layerNormForward(
  { rows, cols, eps, deviceClass }: {
    rows: number;
    cols: number;
    eps: number;
    deviceClass: DeviceClass;
  },
): Launch {
  const frame = rowFrame(deviceClass);
  const { width, array, type, total } = lanesOf(cols);
  return {
    source: {
      name: "layerNorm",
      bindings: [
        read("x", array),
        read("gain", array),
        read("bias", array),
        write("y", array),
        write("mean", "array<f32>"),
        write("rstd", "array<f32>"),
      ],
      params: ["rows", "groups"],
      body: `${frame.functions}
${frame.head}
  let at = row * P.groups;
  let n = f32(P.groups * ${width}u);
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
        frame.loop("P.groups", (c) =>
          `y[at + ${c}] = (x[at + ${c}] - average) * scale * gain[${c}] + bias[${c}];`)
      }
  if (${frame.first}) { mean[row] = average; rstd[row] = scale; }
}`,
    },
    params: [rows, cols / width],
    grid: frame.grid(rows),
  };
}

/** Binds g, x, gain, mean, rstd, then the epilogue's; the epilogue consumes dx. */
export function layerNormBackward(
  { rows, cols, epilogue, deviceClass }: {
    rows: number;
    cols: number;
    epilogue: Epilogue;
    deviceClass: DeviceClass;
  },
): Launch {
  const frame = rowFrame(deviceClass);
  const { width, array, type, total } = lanesOf(cols);
  return {
    source: {
      name: "layerNormGrad",
      bindings: [
        read("g", array),
        read("x", array),
        read("gain", array),
        read("mean", "array<f32>"),
        read("rstd", "array<f32>"),
        ...epilogue.bindings,
      ],
      params: ["rows", "groups", ...epilogue.params],
      usesRun: epilogue.usesRun,
      body: `${epilogue.functions}
${frame.functions}
${frame.head}
  let at = row * P.groups;
  let n = f32(P.groups * ${width}u);
  let average = mean[row];
  let scale = rstd[row];
  var s1 = ${type}();
  var s2 = ${type}();
  ${
        frame.loop("P.groups", (c) =>
          `let h = g[at + ${c}] * gain[${c}]; s1 += h; s2 = fma(h, (x[at + ${c}] - average) * scale, s2);`)
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
      }
}`,
    },
    params: [rows, cols / width, ...epilogue.values],
    grid: frame.grid(rows),
  };
}

/** Without mean and bias. Binds x, gain, y, rstd. */
export function rmsNormForward(
  { rows, cols, eps, deviceClass }: {
    rows: number;
    cols: number;
    eps: number;
    deviceClass: DeviceClass;
  },
): Launch {
  const frame = rowFrame(deviceClass);
  const { width, array, type, total } = lanesOf(cols);
  return {
    source: {
      name: "rmsNorm",
      bindings: [
        read("x", array),
        read("gain", array),
        write("y", array),
        write("rstd", "array<f32>"),
      ],
      params: ["rows", "groups"],
      body: `${frame.functions}
${frame.head}
  let at = row * P.groups;
  var squares = ${type}();
  ${frame.loop("P.groups", (c) => `let v = x[at + ${c}]; squares = fma(v, v, squares);`)}
  var square = ${total("squares")};
  ${frame.reduce("square", "sum")}
  let scale = 1.0 / sqrt(square / f32(P.groups * ${width}u) + ${eps});
  ${frame.loop("P.groups", (c) => `y[at + ${c}] = x[at + ${c}] * scale * gain[${c}];`)}
  if (${frame.first}) { rstd[row] = scale; }
}`,
    },
    params: [rows, cols / width],
    grid: frame.grid(rows),
  };
}

/** Binds g, x, gain, rstd, then the epilogue's; the epilogue consumes dx. */
export function rmsNormBackward(
  { rows, cols, epilogue, deviceClass }: {
    rows: number;
    cols: number;
    epilogue: Epilogue;
    deviceClass: DeviceClass;
  },
): Launch {
  const frame = rowFrame(deviceClass);
  const { width, array, type, total } = lanesOf(cols);
  return {
    source: {
      name: "rmsNormGrad",
      bindings: [
        read("g", array),
        read("x", array),
        read("gain", array),
        read("rstd", "array<f32>"),
        ...epilogue.bindings,
      ],
      params: ["rows", "groups", ...epilogue.params],
      usesRun: epilogue.usesRun,
      body: `${epilogue.functions}
${frame.functions}
${frame.head}
  let at = row * P.groups;
  let scale = rstd[row];
  var products = ${type}();
  ${
        frame.loop("P.groups", (c) =>
          `products = fma(g[at + ${c}] * gain[${c}], x[at + ${c}] * scale, products);`)
      }
  var b = ${total("products")};
  ${frame.reduce("b", "sum")}
  b /= f32(P.groups * ${width}u);
  ${
        frame.loop("P.groups", (c) =>
          `let dx = scale * (g[at + ${c}] * gain[${c}] - x[at + ${c}] * scale * b);
    ${epilogue.store("dx", "row", `${c} * ${width}u`, width)}`)
      }
}`,
    },
    params: [rows, cols / width, ...epilogue.values],
    grid: frame.grid(rows),
  };
}
