// A fresh base model on the device: the losses that the reference code starts from.

import assert from "node:assert/strict";
import {
  declareParameters,
  initialize,
  lossScalars,
  metro,
  metroInputs,
  parameterShapes,
  prepareMetroBatch,
  preset,
  SPECIAL,
} from "../../models/mod.ts";
import { compile, Random, StateMemory } from "../../ops/mod.ts";
import { cpuTest, openTestDevice } from "../device.ts";

cpuTest(
  "a fresh base model starts at the reference's losses: 55.52, or 50.30 with CLM weighted",
  async () => {
    const { model, objective } = preset("base");
    const rows = 2, length = 128;
    const random = new Random(5);
    const tokens = Uint32Array.from({ length: rows * length }, () => 5 + random.below(32_000));
    for (let row = 0; row < rows; row++) {
      tokens[row * length] = SPECIAL.bos;
      tokens[(row + 1) * length - 1] = SPECIAL.eos;
    }
    const batch = { tokens, length, sequences: [[0, 0], [0, 1]] as const };

    const device = await openTestDevice();
    const memory = new StateMemory(device, parameterShapes(model), "parameters");
    const values = initialize(model, 1);
    for (const name of memory.names) memory.write(name, values(name));

    const total = async (weightedLmLoss: boolean) => {
      const chosen = { ...objective, weightedLmLoss };
      const { inputs, counts } = prepareMetroBatch(model, chosen, batch, 1);
      const outputs = metro(
        declareParameters(model),
        model,
        chosen,
        metroInputs(chosen, rows, length),
        {
          train: false,
        },
      );
      const program = compile(device, {
        name: "base",
        outputs: { loss: outputs.loss, rtd: outputs.sums.rtdLoss },
      }, { state: (name) => memory.view(name) });
      program.run({ inputs, scalars: lossScalars(chosen, counts, counts), key: 3 });
      const [[loss], [rtd]] = [await program.read("loss"), await program.read("rtd")];
      program.destroy();
      return { loss, rtd: rtd / counts.tokens };
    };

    const plain = await total(false), weighted = await total(true);
    assert.ok(Math.abs(plain.rtd - Math.LN2) < 1e-6, `RTD ${plain.rtd}`);
    assert.ok(Math.abs(plain.loss - 55.52) < 0.1, `${plain.loss}`);
    assert.ok(Math.abs(weighted.loss - 50.3) < 0.1, `${weighted.loss}`);
    memory.destroy();
    device.destroy();
  },
);
