/**
 * Evaluation by a model (Yao et al. 2023, arXiv 2305.10601, section 3, "value" and "vote"), and by the log-probability of
 * answer choices. What is asked is the problem's: {@link Problem.value} and {@link Problem.vote}.
 */
import { checkedScore, type EvaluationContext, type Evaluator, type Verdict } from "./evaluator.js";
import { checkCount } from "./options.js";
import type { Problem, ValueQuestion } from "./problem.js";
import { evaluationSeed, textHash } from "./seeds.js";
import { stateKeyOf } from "./select.js";
import type { StrategySampling } from "./shapes.js";
import type { LiveThought } from "./thought.js";
import type { PromptMessage, ThoughtBranch } from "./thought-model.js";

export interface ModelEvaluatorOptions {
  /** Verdicts about one thought (value), or one level (vote); 3 by default. */
  samples?: number;
  /** Tokens of one verdict at most; 256 by default. */
  maxTokens?: number;
  /** Temperature 1 by default. */
  sampling?: StrategySampling;
  /** See {@link Evaluator.usesProgram}; false by default. */
  usesProgram?: boolean;
}

/**
 * A model values each thought: the problem's value prompt is sampled `samples` times, each mark's mean taken, and made a
 * score. A verdict that cannot be read is left out; without any the score is the question's failure score. Thoughts with
 * the same state are asked about once. The judge of document merging is one of these.
 */
export function llmValue(options: ModelEvaluatorOptions = {}): Evaluator {
  const settings = settingsOf(options);
  const asked = memoryPerRun();
  return {
    name: "llm-value",
    settings,
    scope: "thought",
    usesProgram: settings.usesProgram,
    usesModel: true,
    score(run, problem, thoughts) {
      const question = demand(problem.value, problem, "value");
      return scoreDistinct(question, thoughts, asked(run), async (prompt, key) => {
        const { texts, tokens } = await sample(run, prompt, textHash(key), settings);
        return { ...readVerdicts(question, texts), tokens };
      });
    },
  };
}

/**
 * A model votes: one prompt shows all candidates of a level and is sampled `samples` times; a thought's score is the number
 * of votes for its state. Verdicts that choose none do not count.
 */
export function llmVote(options: ModelEvaluatorOptions = {}): Evaluator {
  const settings = settingsOf(options);
  return {
    name: "llm-vote",
    settings,
    scope: "level",
    usesProgram: settings.usesProgram,
    usesModel: true,
    async score(run, problem, thoughts) {
      const question = demand(problem.vote, problem, "vote");
      const stateKey = stateKeyOf(problem);
      const candidates = new Map(thoughts.map(({ state }) => [stateKey(state), state]));
      if (candidates.size === 1) return thoughts.map(() => ({ score: settings.samples }));
      const prompt = question.prompt([...candidates.values()]);
      const { texts, tokens } = await sample(run, prompt, textHash(JSON.stringify(prompt)), settings);
      const votes = new Array<number>(candidates.size).fill(0);
      let read = 0;
      for (const text of texts) {
        const choice = question.read(text, votes.length);
        if (choice === undefined || !(choice in votes)) continue;
        votes[choice]!++;
        read++;
      }
      const keys = [...candidates.keys()];
      return thoughts.map(({ state }, i) => ({
        score: votes[keys.indexOf(stateKey(state))]!,
        ...(read === 0 && { failed: "no verdict chose a thought" }),
        ...(i === 0 && { tokens }),
      }));
    },
  };
}

/**
 * A model's log-probabilities of the value question's choices ("sure", "likely", ...) instead of samples: the score comes
 * from the choices' expected mark. Nothing is generated; the prompt is computed once. Needs a model that scores.
 */
export function choiceLogprobs(options: Pick<ModelEvaluatorOptions, "usesProgram"> = {}): Evaluator {
  const asked = memoryPerRun();
  return {
    name: "choice-logprobs",
    scope: "thought",
    usesProgram: options.usesProgram ?? false,
    usesModel: true,
    score(run, problem, thoughts) {
      const question = demand(problem.value, problem, "value");
      const { choices } = question;
      if (choices === undefined)
        throw new TypeError(`the problem "${problem.name}" has no choices to its value question`);
      return scoreDistinct(question, thoughts, asked(run), async (prompt) => {
        const branch = await run.open(prompt);
        try {
          const mark = expectedMark(Object.values(choices), await logprobsOf(run, branch, Object.keys(choices)));
          return checkedScore(() => question.score?.([mark]) ?? mark, question.failureScore);
        } finally {
          run.release(branch);
        }
      });
    },
  };
}

/** Reads the last of the words in `marks` that a verdict says ("sure", "likely", "impossible"), case aside. */
export function readLabel(marks: Readonly<Record<string, number>>): (text: string) => readonly number[] | undefined {
  return (text) => {
    const words = text.toLowerCase();
    const ends = Object.keys(marks).map((label) => ({ label, at: words.lastIndexOf(label.toLowerCase()) }));
    const last = ends.reduce((a, b) => (b.at > a.at ? b : a), { label: "", at: -1 });
    return last.at < 0 ? undefined : [marks[last.label]!];
  };
}

/** Reads the last whole number from 1 to `count` that a verdict says, as a choice from 0. */
export function readChoice(text: string, count: number): number | undefined {
  const numbers = text.match(/\d+/g)?.map(Number) ?? [];
  const choice = numbers.filter((number) => number >= 1 && number <= count).at(-1);
  return choice === undefined ? undefined : choice - 1;
}

type Settings = Required<ModelEvaluatorOptions>;

function settingsOf(options: ModelEvaluatorOptions): Settings {
  const { samples = 3, maxTokens = 256, sampling = { temperature: 1 }, usesProgram = false } = options;
  checkCount("samples", samples);
  checkCount("maxTokens", maxTokens);
  return { samples, maxTokens, sampling, usesProgram };
}

/** Verdicts of each running search; gone with it. */
function memoryPerRun(): (run: object) => Map<string, Promise<Verdict>> {
  const memories = new WeakMap<object, Map<string, Promise<Verdict>>>();
  return (run) => {
    const memory = memories.get(run) ?? new Map<string, Promise<Verdict>>();
    memories.set(run, memory);
    return memory;
  };
}

function demand<State, Answer, Question>(
  question: Question | undefined,
  problem: Problem<State, Answer>,
  name: string,
): Question {
  if (question === undefined)
    throw new TypeError(`the problem "${problem.name}" has no ${name} question to ask a model`);
  return question;
}

/** Asks each different prompt once in a search, and gives its verdict to all thoughts that it is asked for. */
async function scoreDistinct<State>(
  question: ValueQuestion<State>,
  thoughts: readonly LiveThought<State>[],
  asked: Map<string, Promise<Verdict>>,
  score: (prompt: PromptMessage[], key: string) => Promise<Verdict>,
): Promise<Verdict[]> {
  return Promise.all(
    thoughts.map(async ({ state }) => {
      const prompt = question.prompt(state);
      if (prompt === undefined) return { score: question.failureScore, failed: "there is nothing to ask about" };
      const key = JSON.stringify(prompt);
      const known = asked.get(key);
      if (known) return { ...(await known), tokens: 0 };
      const verdict = score(prompt, key);
      asked.set(key, verdict);
      return verdict;
    }),
  );
}

/** Samples a prompt side by side; fewer times, or not at all, when the budget has no more tokens. */
async function sample(
  run: EvaluationContext,
  prompt: readonly PromptMessage[],
  seed: number,
  { samples, maxTokens, sampling }: Settings,
): Promise<{ texts: string[]; tokens: number }> {
  const count = await run.grantSamples(samples, maxTokens);
  if (count === 0) return { texts: [], tokens: 0 };
  const root = await run.open(prompt);
  const branches = run.fork(root, count);
  const decoded = await Promise.all(
    branches.map(async (branch, i) => {
      try {
        return await run.decode(branch, { ...sampling, seed: evaluationSeed(run.seed, seed, i), maxTokens });
      } finally {
        run.release(branch);
      }
    }),
  );
  run.release(root);
  return { texts: decoded.map(({ text }) => text), tokens: decoded.reduce((sum, { tokens }) => sum + tokens, 0) };
}

function readVerdicts<State>(question: ValueQuestion<State>, texts: readonly string[]): Verdict {
  const readings = texts.map((text) => question.read(text)).filter((marks) => marks !== undefined);
  const [first] = readings;
  if (first === undefined) return { score: question.failureScore, failed: "no verdict could be read" };
  const means = first.map((_, mark) => readings.reduce((sum, marks) => sum + marks[mark]!, 0) / readings.length);
  return checkedScore(() => question.score?.(means) ?? means[0]!, question.failureScore);
}

async function logprobsOf(run: EvaluationContext, branch: ThoughtBranch, texts: string[]): Promise<number[]> {
  if (branch.score === undefined) throw new TypeError(`the model ${run.model.name} gives no log-probabilities`);
  return branch.score(texts, run.signal);
}

/** The mean of `marks`, weighed by the probabilities of their choices among each other. */
function expectedMark(marks: readonly number[], logprobs: readonly number[]): number {
  const most = Math.max(...logprobs);
  const weights = logprobs.map((logprob) => Math.exp(logprob - most));
  const sum = weights.reduce((a, b) => a + b, 0);
  return marks.reduce((mean, mark, i) => mean + (mark * weights[i]!) / sum, 0);
}
