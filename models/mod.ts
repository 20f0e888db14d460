/**
 * The models: presets, parameters, METRO's objective and the sequence-to-sequence one, and the names by
 * which others know their weights.
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
  type Source,
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
