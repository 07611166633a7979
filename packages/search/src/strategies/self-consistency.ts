import { prune } from "../evaluate.js";
import { checkCount } from "../options.js";
import { propose, rootPlace } from "../propose.js";
import { stateKeyOf } from "../select.js";
import { wholeAnswer } from "../shapes.js";
import type { Strategy, StrategyOptions } from "../strategy.js";
import type { LiveThought, Place } from "../thought.js";

export interface SelfConsistencyOptions extends StrategyOptions {
  /** Answers. `Infinity` goes on until a budget is used up. */
  n: number;
  /** Most answers that decode side by side, a round. 32 by default. */
  width?: number;
}

/**
 * Self-consistency (Wang et al. 2023, arXiv 2203.11171): whole answers from one prompt, side by side; the one given most
 * often wins, and neither the problem's scorer nor a model is asked. A thought's score is the number of answers that agree
 * with it; that of an answer that cannot be read is 0, however many there are.
 *
 * @throws RangeError on a count that makes no sense.
 */
export function selfConsistency(options: SelfConsistencyOptions): Strategy {
  const { n, width = 32, sampling = { temperature: 1 } } = options;
  if (n !== Number.POSITIVE_INFINITY) checkCount("n", n);
  checkCount("width", width);
  return {
    name: n === Number.POSITIVE_INFINITY ? "self-consistency" : `self-consistency-${n}`,
    settings: { n, width, sampling },
    speculation: options.speculation,
    async run(run) {
      const { problem } = run;
      const place = await rootPlace(run);
      const answers: LiveThought<ReturnType<typeof problem.readAnswer>>[] = [];
      while (run.thoughts < n) {
        const granted = run.grant(Math.min(width, n - run.thoughts), problem.answerMaxTokens);
        if (granted === undefined) break;
        const places = new Array<Place>(granted.count).fill(place);
        answers.push(...(await propose(run, places, wholeAnswer(problem, sampling, granted.maxTokens))));
      }
      const stateKey = stateKeyOf(problem);
      const votes = new Map<string, number>();
      for (const { state } of answers.filter((answer) => problem.isReadable?.(answer.state) ?? true))
        votes.set(stateKey(state), (votes.get(stateKey(state)) ?? 0) + 1);
      for (const answer of answers) {
        answer.score = votes.get(stateKey(answer.state)) ?? 0;
        run.emit({ type: "thought:scored", thought: answer.id, score: answer.score });
        run.consider(answer);
        run.release(answer.branch);
      }
      if (run.best === undefined) return;
      const dropped = answers.filter((answer) => answer !== run.best);
      run.emit({ type: "level:selected", depth: 1, kept: [run.best.id], dropped: dropped.map(({ id }) => id) });
      for (const answer of dropped) prune(run, answer, "outscored");
    },
  };
}
