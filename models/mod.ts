/**
 * The models: layers, the auxiliary encoder, the encoder-decoder, their heads and objectives, presets,
 * and weights in and out.
 *
 * @module
 */

export * from "./config.ts";
export * from "./generation.ts";
export * from "./heads.ts";
export * from "./hub_config.ts";
export * from "./initialize.ts";
export * from "./layers.ts";
export * from "./masking.ts";
export * from "./metro.ts";
export * from "./metro_batch.ts";
export * from "./names.ts";
export * from "./parameters.ts";
export * from "./formats/pickle.ts";
export * from "./presets.ts";
export * from "./rank.ts";
export * from "./roc.ts";
export * from "./relative.ts";
export * from "./formats/safetensors.ts";
export * from "./formats/shard_index.ts";
export * from "./spans.ts";
export * from "./formats/stored.ts";
export * from "./t5.ts";
export * from "./formats/torch_zip.ts";
export * from "./transformer.ts";
