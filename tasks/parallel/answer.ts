/**
 * A thread of `ordered_pool.ts`: a module that answers calls {@link answer} once, at its top level.
 *
 * @module
 */
/// <reference no-default-lib="true" />
/// <reference lib="deno.worker" />
import { UserError } from "../../ops/graph/errors.ts";
import type { Answered, Asked } from "./ordered_pool.ts";

/**
 * Answers questions in this worker.
 *
 * @param begin makes what answers, of the setup
 * @param buffersOf the memory of an answer, which goes over to the asker
 */
export function answer<Setup, Question, Answer>(
  begin: (setup: Setup) => (question: Question) => Answer,
  buffersOf: (answer: Answer) => ArrayBuffer[],
): void {
  let reply: (question: Question) => Answer;
  self.onmessage = ({ data }: MessageEvent<Asked<Setup, Question>>) => {
    if ("setup" in data) {
      try {
        reply = begin(data.setup);
      } catch (error) {
        // Told in answer to every question.
        reply = () => {
          throw error;
        };
      }
      return;
    }
    try {
      const answer = reply(data.question);
      self.postMessage({ answer } satisfies Answered<Answer>, buffersOf(answer));
    } catch (error) {
      const user = error instanceof UserError;
      const text = user ? (error as Error).message : (error as Error).stack ?? String(error);
      self.postMessage({ error: text, user } satisfies Answered<Answer>);
    }
  };
}
