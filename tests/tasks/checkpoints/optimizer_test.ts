import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { elementCount } from "../../../models/formats/stored.ts";
import { UserError } from "../../../ops/graph/errors.ts";
import { key, Random } from "../../../ops/graph/random.ts";
import { openTensors, type Tensors, writeTensors } from "../../../tasks/checkpoints/tensors.ts";
import {
  isOptimizerFile,
  optimizerFiles,
  readMoments,
  writeMoments,
} from "../../../tasks/checkpoints/optimizer.ts";
import type { TensorSlice } from "../../../tasks/parallel/buckets.ts";
import { kept, randomSlices, type Shapes } from "./trained_slices.ts";

async function inFolder(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(join(tmpdir(), "optimizer-"));
  try {
    await work(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function withFiles(paths: string[], work: (files: Tensors[]) => Promise<void>) {
  const files: Tensors[] = [];
  try {
    for (const path of paths) files.push(await openTensors(path));
    await work(files);
  } finally {
    for (const file of files) await file.close();
  }
}

/** Up to eight tensors of up to four dimensions, scalars and tensors of one element among them. */
function randomShapes(random: Random): Shapes {
  const shapeOf = () => Array.from({ length: random.below(5) }, () => 1 + random.below(6));
  const names = Array.from({ length: 1 + random.below(8) }, (_, i) => `part.${i}.weight`);
  return new Map(names.map((name) => [name, shapeOf()]));
}

Deno.test("whatever N ranks wrote in whatever slices, M ranks read in others", () =>
  inFolder(async (folder) => {
    for (let round = 0; round < 15; round++) {
      const size = 1 + round % 5, random = new Random(key(11, round));
      const shapes = randomShapes(random);
      const total = shapes.values().reduce((sum, shape) => sum + elementCount(shape), 0);
      const numbers = Float32Array.from({ length: 2 * total }, () => random.normal());
      let next = 0;
      const expected = new Map(Array.from(shapes, ([name, shape]) => {
        const take = () => numbers.subarray(next, next += elementCount(shape));
        return [name, { mean: take(), square: take() }];
      }));
      const paths = optimizerFiles(size).map((name) => join(folder, name));
      for (const [rank, slices] of randomSlices(shapes, size, round).entries()) {
        const moments = kept(shapes, slices);
        for (const { name, from, to } of slices) {
          for (const kind of ["mean", "square"] as const) {
            moments.writeMoment(
              kind,
              { name, from, to },
              expected.get(name)![kind].subarray(from, to),
            );
          }
        }
        await writeMoments(paths[rank], moments, { update: "1" });
      }
      await withFiles(paths, async (files) => {
        for (let readers = 1; readers <= 5; readers++) {
          for (const slices of randomSlices(shapes, readers, 100 + round)) {
            const moments = kept(shapes, slices);
            await readMoments(files, moments);
            for (const { name, from, to } of slices) {
              for (const kind of ["mean", "square"] as const) {
                assert.deepEqual(
                  moments[kind].get(name)!.subarray(from, to),
                  expected.get(name)![kind].subarray(from, to),
                );
              }
            }
          }
        }
      });
    }
  }));

Deno.test("a rank writes in the order of its memory, and reads only what overlaps its slices", () =>
  inFolder(async (folder) => {
    const shapes = new Map([["b", [4]], ["a", [2, 3]], ["c", [2]]]);
    const slices = [
      [{ name: "b", from: 0, to: 4 }, { name: "a", from: 0, to: 3 }],
      [{ name: "a", from: 3, to: 6 }, { name: "c", from: 0, to: 2 }],
    ];
    const paths = optimizerFiles(2).map((name) => join(folder, name));
    const asked: string[] = [];
    for (const [rank, path] of paths.entries()) {
      const moments = kept(shapes, slices[rank]);
      await writeMoments(path, {
        ...moments,
        momentReader(kind) {
          asked.push(kind);
          const read = moments.momentReader(kind);
          return (slice) => (asked.push(slice.name), read(slice));
        },
      }, {});
    }
    assert.deepEqual(asked.slice(0, 6), ["mean", "b", "a", "square", "b", "a"]);

    await withFiles(paths, async (files) => {
      assert.deepEqual(files[0].names, ["mean.a[0:3]", "mean.b", "square.a[0:3]", "square.b"]);
      assert.deepEqual(files[0].shape("mean.b"), [4]);
      const read: string[] = [];
      const watched = files.map((file) => ({
        ...file,
        read: (name: string) => (read.push(name), file.read(name)),
      }));
      const own = [{ name: "a", from: 4, to: 5 }, { name: "a", from: 5, to: 6 }];
      await readMoments(watched, kept(shapes, own));
      assert.deepEqual(read, ["mean.a[3:6]", "square.a[3:6]"]);
    });
  }));

Deno.test("a rank without slices writes a file without tensors", () =>
  inFolder(async (folder) => {
    const path = join(folder, "optimizer-00002-of-00002.safetensors");
    await writeMoments(path, kept(new Map([["w", [2]]]), []), { update: "3" });
    await withFiles([path], ([file]) => {
      assert.deepEqual(file.names, []);
      assert.deepEqual(file.metadata, { update: "3" });
      return Promise.resolve();
    });
  }));

Deno.test("what is missing, there twice or of another shape is refused with the file's name", () =>
  inFolder(async (folder) => {
    const shapes = new Map([["w", [2, 3]]]);
    /** The error for files of `mean.w` with these names and shapes; `square.w` is always good. */
    const refusal = async (...files: Record<string, number[]>[]) => {
      const paths = optimizerFiles(files.length).map((name) => join(folder, name));
      for (const [i, shapes] of files.entries()) {
        const all = Object.entries(i > 0 ? shapes : { ...shapes, "square.w": [2, 3] });
        const specs = all.map(([name, shape]) => ({ name, shape }));
        const values = new Map(all);
        await writeTensors(paths[i], specs, (name) => {
          return new Float32Array(elementCount(values.get(name)!));
        }, {});
      }
      let message = "";
      await withFiles(paths, async (files) => {
        const slices: TensorSlice[] = []; // all is checked, even what this rank needs none of
        const error = await readMoments(files, kept(shapes, slices)).catch((error) => error);
        if (error === undefined) return;
        assert.ok(error instanceof UserError, `${error}`);
        assert.doesNotMatch(error.message, /\n/);
        message = error.message.replaceAll(folder, "run");
      });
      return message;
    };
    const part = (from: number, to: number) => ({ [`mean.w[${from}:${to}]`]: [to - from] });
    assert.equal(await refusal({ "mean.w": [2, 3] }), "");
    assert.equal(await refusal(part(0, 4), part(4, 6)), "");
    assert.equal(await refusal({ "mean.w": [2, 3], "mean.of.another.part": [7] }), "");

    assert.match(
      await refusal({}),
      /^run.optimizer\.safetensors: has no tensor mean\.w; is it from/,
    );
    assert.match(
      await refusal(part(0, 4)),
      /optimizer\.safetensors: has no tensor mean\.w\[4:6\];/,
    );
    assert.match(
      await refusal(part(0, 2), part(3, 6), {}),
      /^run.optimizer-00001-of-00003\.safetensors and the 2 files .*: no tensor mean\.w\[2:3\]; put/,
    );
    assert.match(
      await refusal(part(0, 4), part(3, 6)),
      /^run.optimizer-00002.*: tensor mean\.w\[3:6\] overlaps mean\.w\[0:4\] of run.optimizer-00001/,
    );
    const shape =
      /^run.optimizer\.safetensors: tensor mean\.w.*: expected .* of shape \[2,3\], got/;
    const wrong: Record<string, number[]>[] = [
      ...[{ "mean.w": [3, 2] }, { "mean.w[0:6]": [2, 3] }, { "mean.w[0:7]": [7] }],
      ...[{ "mean.w[2:2]": [0] }, { "mean.w[4:2]": [2] }],
    ];
    for (const tensors of wrong) {
      assert.match(await refusal(tensors), shape);
    }
  }));

Deno.test("names of optimizer files", () => {
  assert.deepEqual(optimizerFiles(2), [
    "optimizer-00001-of-00002.safetensors",
    "optimizer-00002-of-00002.safetensors",
  ]);
  for (const size of [1, 3, 100_000]) assert.ok(optimizerFiles(size).every(isOptimizerFile));
  for (
    const name of ["optimizer.json", "model.safetensors", "../optimizer.safetensors", "optimizer-1"]
  ) {
    assert.ok(!isOptimizerFile(name), name);
  }
});
