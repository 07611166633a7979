import { judge, prune } from "../evaluate.js";
import type { ThoughtId } from "../events.js";
import { checkCount } from "../options.js";
import { isSolved, type Problem } from "../problem.js";
import { sprout } from "../propose.js";
import type { SearchRun } from "../run.js";
import { wholeAnswer } from "../shapes.js";
import type { Strategy, StrategyOptions } from "../strategy.js";
import type { LiveThought, Place } from "../thought.js";
import type { PromptMessage } from "../thought-model.js";

export interface GraphOfThoughtsOptions extends StrategyOptions {
  /** Parts of the problem. */
  parts: number;
  /** Answers to each part; 5 by default, as the paper's sorting. */
  solve?: number;
  /** Tries to join two answers; 10 by default. */
  merge?: number;
  /** Tries to improve what was joined, after each joining; 5 by default, 0 for none. */
  improve?: number;
  /** The same after the last joining, which makes whole answers; as `improve` by default. */
  improveLast?: number;
  /** With one part: how many of the best answers are joined, `merge` times, before they are improved. 1, for none, by default. */
  join?: number;
}

/**
 * Graph of Thoughts (Besta et al., AAAI 2024, arXiv 2308.09687): splits a problem into parts, answers each part several
 * times, joins the best answers two by two, and improves what was joined. All thoughts of a stage decode side by side.
 * A problem that is not split can have its best whole answers joined instead (the paper's document merging).
 *
 * Differences from the paper's programs: the problem splits itself, where they ask the model to; and an answer that a
 * program sees to be right is not improved.
 *
 * @throws RangeError on a count that makes no sense.
 */
export function graphOfThoughts(options: GraphOfThoughtsOptions): Strategy {
  const { parts, solve = 5, merge = 10, improve = 5, join = 1, sampling = { temperature: 1 } } = options;
  const { improveLast = improve, speculation } = options;
  for (const [name, count] of Object.entries({ parts, solve, merge, join })) checkCount(name, count);
  for (const [name, count] of Object.entries({ improve, improveLast })) if (count !== 0) checkCount(name, count);
  if (join > 1 && parts > 1) throw new RangeError(`join is for one part, got ${parts} parts`);
  const settings = { parts, solve, merge, improve, improveLast, join, sampling };
  return { name: `got-${parts}`, settings, speculation, run: (run) => growGraph(run, settings) };
}

type Settings = Required<Omit<GraphOfThoughtsOptions, "speculation">>;

/** The best answers to parts [begin, end), best first, and the problem that these parts are. */
interface Solved<State, Answer> {
  begin: number;
  end: number;
  problem: Problem<State, Answer>;
  kept: LiveThought<State>[];
}

/** What is asked next about parts [begin, end). */
interface Question<State, Answer> {
  begin: number;
  end: number;
  problem: Problem<State, Answer>;
  prompt: PromptMessage[];
  parent: ThoughtId;
  merged?: ThoughtId[];
  /** What was answered before, which stays on ties. */
  old: LiveThought<State>[];
}

interface Stage {
  depth: number;
  /** Parts of the whole problem. */
  total: number;
}

async function growGraph<State, Answer>(run: SearchRun<State, Answer>, settings: Settings): Promise<void> {
  const { problem } = run;
  const split = settings.parts === 1 ? undefined : problem.split?.(settings.parts);
  if (settings.parts > 1 && split === undefined) {
    throw new TypeError(`the problem "${problem.name}" has no split, which graph of thoughts needs`);
  }
  if (settings.join > 1 && problem.joinPrompt === undefined) {
    throw new TypeError(`the problem "${problem.name}" has no joinPrompt, which join needs`);
  }
  const parts = split?.parts ?? [problem];
  const stage: Stage = { depth: 1, total: parts.length };
  const questions = parts.map((part, i) => ({
    ...{ begin: i, end: i + 1, problem: part, parent: 0, old: [] },
    prompt: part.prompt(),
  }));
  let level = await answer(run, questions, settings.solve, settings.join, settings, stage);
  if (level.length < parts.length) return;
  if (parts.length === 1) {
    level = await joinAnswers(run, level, settings, stage);
    level = await improve(run, level, settings, stage);
  }
  while (level.length > 1 && !run.stopped) {
    const joined = await mergePairs(run, split!.merge, level, settings, stage);
    if (joined.length < Math.ceil(level.length / 2)) break;
    level = await improve(run, joined, settings, stage);
  }
  if (run.solved) run.stopReason ??= "solved";
}

async function mergePairs<State, Answer>(
  run: SearchRun<State, Answer>,
  merge: NonNullable<ReturnType<NonNullable<Problem<State, Answer>["split"]>>>["merge"],
  level: readonly Solved<State, Answer>[],
  settings: Settings,
  stage: Stage,
): Promise<Solved<State, Answer>[]> {
  const questions: Question<State, Answer>[] = [];
  for (let i = 0; i + 1 < level.length; i += 2) {
    const [a, b] = [level[i]!, level[i + 1]!];
    const [first, second] = [a.kept[0]!, b.kept[0]!];
    const problem = merge(a.begin, a.end, b.end, first.state, second.state);
    questions.push({
      ...{ begin: a.begin, end: b.end, problem, prompt: problem.prompt(), old: [] },
      ...{ parent: first.id, merged: [second.id] },
    });
  }
  const odd = level.length % 2 === 1 ? [level.at(-1)!] : [];
  stage.depth = Math.max(...level.map(({ kept }) => kept[0]!.depth)) + 1;
  return [...(await answer(run, questions, settings.merge, 1, settings, stage)), ...odd];
}

/** Joins the best answers to an undivided problem into new ones; the old ones compete. */
async function joinAnswers<State, Answer>(
  run: SearchRun<State, Answer>,
  level: readonly Solved<State, Answer>[],
  settings: Settings,
  stage: Stage,
): Promise<Solved<State, Answer>[]> {
  const [{ kept, ...range }] = level as [Solved<State, Answer>];
  if (settings.join === 1 || run.stopped || isDone(run, kept[0]!)) return [...level];
  stage.depth++;
  const [first, ...others] = kept;
  const prompt = run.problem.joinPrompt!(kept.map(({ state }) => state));
  const question = { ...range, prompt, parent: first!.id, merged: others.map(({ id }) => id), old: kept };
  return answer(run, [question], settings.merge, 1, settings, stage);
}

async function improve<State, Answer>(
  run: SearchRun<State, Answer>,
  level: readonly Solved<State, Answer>[],
  settings: Settings,
  stage: Stage,
): Promise<Solved<State, Answer>[]> {
  const tries = level.length === 1 ? settings.improveLast : settings.improve;
  const open = level.filter(
    ({ problem, kept }) => problem.improvePrompt !== undefined && !isDone(run, kept[0]!, problem),
  );
  if (tries === 0 || open.length === 0 || run.stopped) return [...level];
  stage.depth = Math.max(...level.map(({ kept }) => kept[0]!.depth)) + 1;
  const questions = open.map(({ kept, ...range }) => ({
    ...range,
    ...{ prompt: range.problem.improvePrompt!(kept[0]!.state), parent: kept[0]!.id, old: kept },
  }));
  const improved = await answer(run, questions, tries, 1, settings, stage);
  return level.map((solved) => improved.find(({ begin }) => begin === solved.begin) ?? solved);
}

function isDone<State, Answer>(
  run: SearchRun<State, Answer>,
  thought: LiveThought<State>,
  problem: Problem<State, Answer> = run.problem,
): boolean {
  return run.evaluator.usesProgram && isSolved(problem, thought.state);
}

/** Asks each question `samples` times, all side by side, and keeps the best answers of each. */
async function answer<State, Answer>(
  run: SearchRun<State, Answer>,
  questions: readonly Question<State, Answer>[],
  samples: number,
  keep: number,
  settings: Settings,
  stage: Stage,
): Promise<Solved<State, Answer>[]> {
  const opened = await Promise.all(
    questions.map(async ({ prompt, parent, merged, begin, end }): Promise<Place> => {
      const branch = await run.open(prompt);
      const isPart = end - begin < stage.total;
      return {
        ...{ parent, depth: stage.depth, branch, text: "" },
        ...(merged && { merged }),
        ...(isPart && { parts: [begin, end] as const }),
      };
    }),
  );
  const answers: LiveThought<State>[][] = questions.map(({ old }) => [...old]);
  const wanted = questions.flatMap((_, question) => new Array<number>(samples).fill(question));
  const longest = Math.max(...questions.map(({ problem }) => problem.answerMaxTokens));
  const comparesLevel = run.evaluator.scope === "level";
  for (let next = 0; next < wanted.length; ) {
    const granted = run.grant(wanted.length - next, longest);
    if (granted === undefined) break;
    const round = wanted.slice(next, next + granted.count);
    const places = round.map((question) => opened[question]!);
    const shapes = round.map((q) => wholeAnswer(questions[q]!.problem, settings.sampling, granted.maxTokens));
    const grown = await Promise.all(
      sprout(run, places, shapes).map(async (sprouting, i) => {
        const thoughts = await sprouting;
        if (!comparesLevel) await score(run, questions[round[i]!]!, thoughts, stage);
        return thoughts;
      }),
    );
    for (const thought of grown.flat()) answers[opened.indexOf(thought.place)]!.push(thought);
    next += granted.count;
  }
  if (comparesLevel) await Promise.all(questions.map((question, i) => score(run, question, answers[i]!, stage)));
  for (const place of opened) run.release(place.branch);
  if (run.signal.aborted) return [];
  return questions.flatMap(({ begin, end, problem }, question) => {
    const ranked = answers[question]!.sort((a, b) => b.score - a.score);
    if (ranked.length === 0) return [];
    const [kept, dropped] = [ranked.slice(0, keep), ranked.slice(keep)];
    const ids = (thoughts: LiveThought<State>[]) => thoughts.map(({ id }) => id);
    run.emit({ type: "level:selected", depth: stage.depth, kept: ids(kept), dropped: ids(dropped) });
    for (const thought of dropped) prune(run, thought, "outscored");
    return [{ begin, end, problem, kept }];
  });
}

/** Only an answer to all parts is one to the problem itself. */
async function score<State, Answer>(
  run: SearchRun<State, Answer>,
  { begin, end, problem }: Question<State, Answer>,
  thoughts: readonly LiveThought<State>[],
  { total }: Stage,
): Promise<void> {
  const isWhole = begin === 0 && end === total;
  try {
    if (!(await judge(run, isWhole ? run.problem : problem, thoughts))) return;
  } catch (error) {
    run.fail(error);
    return;
  }
  for (const thought of thoughts) {
    if (isWhole) run.consider(thought);
    run.release(thought.branch);
  }
}
