/**
 * The worker of {@link ./encode.ts}: makes ids of the lines of documents.
 *
 * @module
 */
import { answer } from "../parallel/answer.ts";
import { Tokenizer, type TokenizerJson } from "../tokenizer/tokenizer.ts";
import { encodeBatch, type EncodedBatch } from "./encode.ts";

answer<TokenizerJson, string[][], EncodedBatch>(
  (json) => {
    const tokenizer = new Tokenizer(json);
    return (documents) => encodeBatch(tokenizer, documents);
  },
  ({ tokens, lengths, lines }) => [tokens.buffer, lengths.buffer, lines.buffer],
);
