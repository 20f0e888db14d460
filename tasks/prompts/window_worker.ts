/**
 * The worker of {@link ./example_windows.ts}: receives what windows are made from, then window numbers,
 * and sends back examples.
 *
 * @module
 */
/// <reference no-default-lib="true" />
/// <reference lib="deno.worker" />
import { UserError } from "../../ops/graph/errors.ts";
import { WindowMaker, type WindowReply, type WindowRequest } from "./windows.ts";

let maker: WindowMaker | undefined;
let failure: WindowReply | undefined;

self.onmessage = ({ data }: MessageEvent<WindowRequest>): void => {
  try {
    if ("source" in data) {
      maker = new WindowMaker(data.source);
      return;
    }
    if (failure) return self.postMessage(failure);
    const made = maker!.make(data.epoch, data.window);
    const { sources, sourceLengths, targets, targetLengths, counts } = made;
    const buffers = [sources, sourceLengths, targets, targetLengths, counts].map((a) => a.buffer);
    self.postMessage({ made } satisfies WindowReply, buffers);
  } catch (error) {
    const user = error instanceof UserError;
    const text = user ? (error as Error).message : (error as Error).stack ?? String(error);
    const reply: WindowReply = { error: text, user };
    if ("source" in data) failure = reply;
    else self.postMessage(reply);
  }
};
