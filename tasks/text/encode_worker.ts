/**
 * The worker of {@link ./encode.ts}: receives a tokenizer, then batches of lines, and sends back ids.
 *
 * @module
 */
/// <reference no-default-lib="true" />
/// <reference lib="deno.worker" />
import { Tokenizer } from "../tokenizer/tokenizer.ts";
import { encodeBatch, type WorkerReply, type WorkerRequest } from "./encode.ts";

let tokenizer: Tokenizer;

self.onmessage = ({ data }: MessageEvent<WorkerRequest>): void => {
  if ("json" in data) {
    tokenizer = new Tokenizer(data.json);
    return;
  }
  try {
    const batch = encodeBatch(tokenizer, data.documents);
    const buffers = [batch.tokens.buffer, batch.lengths.buffer, batch.lines.buffer];
    self.postMessage({ batch } satisfies WorkerReply, buffers);
  } catch (error) {
    self.postMessage({ error: (error as Error).message } satisfies WorkerReply);
  }
};
