/**
 * Threads that answer questions, and are heard in the order in which they were asked. The other side is
 * `answer.ts`.
 *
 * @module
 */
import { UserError } from "../../ops/graph/errors.ts";

/** What a thread is sent: what it needs for all answers, then questions. */
export type Asked<Setup, Question> = { setup: Setup } | { question: Question };

/** What a thread sends back for each question, in order. */
export type Answered<Answer> = { answer: Answer } | { error: string; user: boolean };

/** Threads that take questions in turn. */
export class OrderedPool<Setup, Question, Answer> {
  readonly #workers: readonly Worker[];
  readonly #waiting: readonly PromiseWithResolvers<Answer>[][];
  #failure: Error | undefined;
  #turn = 0;

  /**
   * Starts the threads.
   *
   * @param module calls `answer`
   * @param name of a thread, for its failure
   * @param setup what every thread needs
   */
  constructor(module: URL, threads: number, name: string, setup: Setup) {
    this.#waiting = Array.from({ length: threads }, () => []);
    this.#workers = this.#waiting.map((waiting) => {
      const worker = new Worker(module, { type: "module" });
      worker.onmessage = ({ data }: MessageEvent<Answered<Answer>>) => {
        const first = waiting.shift()!;
        if ("answer" in data) first.resolve(data.answer);
        else first.reject(data.user ? new UserError(data.error) : new Error(data.error));
      };
      worker.onerror = (event) => {
        event.preventDefault();
        this.#failure = new Error(`${name} failed: ${event.message}`);
        for (const { reject } of waiting.splice(0)) reject(this.#failure);
      };
      worker.postMessage({ setup } satisfies Asked<Setup, Question>);
      return worker;
    });
  }

  /** Asks the thread whose turn it is. */
  ask(question: Question): Promise<Answer> {
    const answer = Promise.withResolvers<Answer>();
    // It may fail while an earlier answer is awaited; the failure is met when its turn comes.
    answer.promise.catch(() => {});
    const turn = this.#turn++ % this.#workers.length;
    if (this.#failure) answer.reject(this.#failure);
    else this.#waiting[turn].push(answer);
    this.#workers[turn].postMessage({ question } satisfies Asked<Setup, Question>);
    return answer.promise;
  }

  /** Ends the threads. */
  close(): void {
    for (const worker of this.#workers) worker.terminate();
  }
}
