/**
 * The models: presets, parameters, METRO's objective and the sequence-to-sequence one, and the names by
 * which others know their weights.
 *
 * A {@link preset} has the sizes and settings of a model of the paper. A model is a pure function of its
 * {@link declareParameters | parameters}: {@link metro} is the pretraining objective, {@link seq2seq} that of
 * the T5 baseline and of finetuning, {@link encode} and {@link decode} the stacks that both consist of.
 *
 * ```ts
 * import { grad } from "@metro/t0/ops";
 * import { declareParameters, metro, metroInputs, preset } from "@metro/t0/models";
 * import assert from "node:assert/strict";
 *
 * const { model, objective } = preset("base");
 * const parameters = declareParameters(model);
 * const { loss } = metro(parameters, model, objective, metroInputs(objective, 4, 512));
 * const gradients = grad(loss, Object.values(parameters));
 * assert.deepEqual(gradients[0].shape, Object.values(parameters)[0].shape);
 * ```
 *
 * @module
 */

export {
  isT5,
  maskId,
  type MetroModel,
  type ModelConfig,
  type ObjectiveConfig,
  specialIds,
  type T5Model,
} from "./config.ts";
export {
  type OptimisationConfig,
  type Preset,
  preset,
  type PresetName,
  PRESETS,
} from "./presets.ts";
export {
  declareParameters,
  parameterCount,
  type Parameters,
  parameterShapes,
  type Part,
} from "./parameters.ts";
export { initialize } from "./initialize.ts";
export { type MetroBatch, prepareMetroBatch, type TokenBatch } from "./metro_batch.ts";
export { lossScalars, metro, type MetroInputs, metroInputs, type MetroOutputs } from "./metro.ts";
export {
  prepareT5Batch,
  seq2seq,
  type Seq2SeqInputs,
  seq2seqInputs,
  type Seq2SeqOutputs,
  type T5Batch,
} from "./t5.ts";
export { decode, encode } from "./transformer.ts";
export { foreignNames, type ForeignTensor, ourNames } from "./names.ts";
export { hubConfig, modelFromHubConfig } from "./hub_config.ts";
