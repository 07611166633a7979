import { evaluate, prune } from "../evaluate.js";
import { checkCount } from "../options.js";
import { propose } from "../propose.js";
import type { SearchRun } from "../run.js";
import { wholeAnswer } from "../shapes.js";
import type { Strategy, StrategyOptions } from "../strategy.js";
import type { LiveThought, Place } from "../thought.js";

export interface BestOfNOptions extends StrategyOptions {
  /** Answers. `Infinity` goes on until a budget is used up. */
  n: number;
  /** Most answers that decode side by side, a round. 32 by default. */
  width?: number;
  /** End after the first round that holds a solved answer. True by default. */
  stopWhenSolved?: boolean;
}

/**
 * Best-of-n: whole answers from one prompt, side by side; the best by the scorer wins.
 *
 * @throws RangeError on a count that makes no sense.
 */
export function bestOfN(options: BestOfNOptions): Strategy {
  const { n, width = 32, stopWhenSolved = true, sampling = { temperature: 1 } } = options;
  if (n !== Number.POSITIVE_INFINITY) checkCount("n", n);
  checkCount("width", width);
  return {
    name: n === Number.POSITIVE_INFINITY ? "best-of-n" : `best-of-${n}`,
    settings: { n, width, stopWhenSolved, sampling },
    speculation: options.speculation,
    async run(run) {
      const { problem } = run;
      const place: Place = { parent: 0, depth: 1, branch: await run.open(problem.prompt()), text: "" };
      while (run.thoughts < n) {
        const granted = run.grant(Math.min(width, n - run.thoughts), problem.answerMaxTokens);
        if (granted === undefined) return;
        const champion = run.best;
        const places = new Array<Place>(granted.count).fill(place);
        const answers = await propose(run, places, wholeAnswer(problem, sampling, granted.maxTokens));
        const rivals = champion === undefined ? answers : [champion, ...answers];
        await evaluate(run, run.evaluator.scope === "level" ? rivals : answers);
        if (run.signal.aborted) return;
        crown(run, rivals);
        if (stopWhenSolved && run.solved) {
          run.stopReason ??= "solved";
          return;
        }
      }
    },
  };
}

/** Keeps the best answer so far and prunes the others. */
function crown<State, Answer>(run: SearchRun<State, Answer>, answers: readonly LiveThought<State>[]): void {
  if (run.best === undefined) return;
  const dropped = answers.filter((answer) => answer !== run.best);
  run.emit({ type: "level:selected", depth: 1, kept: [run.best.id], dropped: dropped.map(({ id }) => id) });
  for (const answer of dropped) prune(run, answer, "outscored");
}
