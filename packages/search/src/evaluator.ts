/** What scores thoughts: the interface, and the problem's own program. */
import type { Problem } from "./problem.js";
import type { LiveThought } from "./thought.js";
import type {
  DecodedThought,
  PromptMessage,
  ThoughtBranch,
  ThoughtDecodeOptions,
  ThoughtModel,
} from "./thought-model.js";

/** What an evaluator may use of the running search: its model, its budget, its account of branches. */
export interface EvaluationContext {
  readonly seed: number;
  readonly model: ThoughtModel;
  readonly signal: AbortSignal;
  open(prompt: readonly PromptMessage[]): Promise<ThoughtBranch>;
  fork(branch: ThoughtBranch, n: number): ThoughtBranch[];
  release(branch: ThoughtBranch): void;
  /** Decodes until the search ends; meanwhile `maxTokens` of its budget are reserved. */
  decode(branch: ThoughtBranch, options: ThoughtDecodeOptions): Promise<DecodedThought>;
  /** Leave to sample up to `wanted` texts; fewer, or none, when the budget has no more. */
  grantSamples(wanted: number, maxTokens: number): Promise<number>;
}

/** What a thought is worth, and why it scores a failure. */
export interface Verdict {
  score: number;
  /** Why there is no proper score. */
  failed?: string;
  /** Generated for this verdict. */
  tokens?: number;
}

/** A way to score thoughts. */
export interface Evaluator {
  readonly name: string;
  /** Plain data that decides its verdicts; a log of other settings is not resumed. */
  readonly settings?: object;
  /** `level`: thoughts are compared with each other, so a strategy scores all candidates of a level at once. */
  readonly scope: "thought" | "level";
  /**
   * Whether the problem's program may decide meanwhile: cut what is hopeless, end at what is solved. Where false, only the
   * verdicts count, and the program is asked nothing but `solved` of the result.
   */
  readonly usesProgram: boolean;
  /** A model gives the verdicts, so a resumed search takes them from its log. */
  readonly usesModel: boolean;
  /** One verdict for each of `thoughts`, which answer `problem`. Rejects with errors of the model only. */
  score<State, Answer>(
    run: EvaluationContext,
    problem: Problem<State, Answer>,
    thoughts: readonly LiveThought<State>[],
  ): Promise<Verdict[]>;
}

const defaultFailureScore = -1000;

/** The problem's own scorer: the default. */
export function programScore(): Evaluator {
  return {
    name: "program",
    scope: "thought",
    usesProgram: true,
    usesModel: false,
    async score(_run, problem, thoughts) {
      return thoughts.map(({ state }) => checkedScore(() => problem.score(state), problem.failureScore));
    },
  };
}

/** Runs a scorer of somebody else's: what it throws, or gives instead of a finite number, is a failure. */
export function checkedScore(scorer: () => number, failureScore = defaultFailureScore): Verdict {
  try {
    const score = scorer();
    return Number.isFinite(score) ? { score } : { score: failureScore, failed: `the scorer answered ${score}` };
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { score: failureScore, failed: `the scorer threw: ${reason}` };
  }
}
