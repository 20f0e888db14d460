/**
 * The worker of {@link ./windows.ts}: makes windows of examples.
 *
 * @module
 */
import { answer } from "../parallel/answer.ts";
import {
  type ExampleWindow,
  WindowMaker,
  type WindowNumber,
  type WindowSource,
} from "./windows.ts";

answer<WindowSource, WindowNumber, ExampleWindow>(
  (source) => {
    const maker = new WindowMaker(source);
    return ({ epoch, window }) => maker.make(epoch, window);
  },
  ({ sources, sourceLengths, targets, targetLengths, counts }) =>
    [sources, sourceLengths, targets, targetLengths, counts].map(({ buffer }) => buffer),
);
