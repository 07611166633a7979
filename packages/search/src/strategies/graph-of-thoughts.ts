/**
 * Graph of Thoughts (Besta et al., AAAI 2024, arXiv 2308.09687): splits a problem into parts, answers each part several
 * times, joins the best answers two by two, and improves what was joined. All thoughts of a stage decode side by side.
 *
 * Differences from the paper's programs: the problem splits itself, where they ask the model to; and an answer that a
 * program sees to be right is not improved.
 */
import { prune } from "../evaluate.js";
import type { ThoughtId } from "../events.js";
import { checkCount } from "../options.js";
import type { Problem } from "../problem.js";
import { type Place, propose } from "../propose.js";
import type { LiveThought, SearchRun } from "../run.js";
import { type StrategySampling, wholeAnswer } from "../shapes.js";
import type { Strategy } from "../strategy.js";

export interface GraphOfThoughtsOptions {
  /** Parts of the problem. */
  parts: number;
  /** Answers to each part; 5 by default, as the paper's sorting. */
  solve?: number;
  /** Tries to join two answers; 10 by default. */
  merge?: number;
  /** Tries to improve what was joined, after each joining; 5 by default, 0 for none. */
  improve?: number;
  /** Temperature 1 by default. */
  sampling?: StrategySampling;
}

export function graphOfThoughts(options: GraphOfThoughtsOptions): Strategy {
  const { parts, solve = 5, merge = 10, improve = 5, sampling = { temperature: 1 } } = options;
  checkCount("parts", parts);
  checkCount("solve", solve);
  checkCount("merge", merge);
  if (improve !== 0) checkCount("improve", improve);
  return {
    name: `got-${parts}`,
    run: (run) => growGraph(run, { parts, solve, merge, improve, sampling }),
  };
}

type Settings = Required<GraphOfThoughtsOptions>;

/** The answer to parts [begin, end), and the problem that these parts are. */
interface Solved<State, Answer> {
  begin: number;
  end: number;
  problem: Problem<State, Answer>;
  thought: LiveThought<State>;
}

/** What is asked next about parts [begin, end). */
interface Task<State, Answer> {
  begin: number;
  end: number;
  problem: Problem<State, Answer>;
  parent: ThoughtId;
  merged?: ThoughtId[];
  /** What was answered before, which stays on ties. */
  old?: LiveThought<State>;
}

async function growGraph<State, Answer>(run: SearchRun<State, Answer>, settings: Settings): Promise<void> {
  const { problem } = run;
  const split = settings.parts === 1 ? undefined : problem.split?.(settings.parts);
  if (settings.parts > 1 && split === undefined) {
    throw new TypeError(`the problem "${problem.name}" has no split, which graph of thoughts needs`);
  }
  const parts = split?.parts ?? [problem];
  const stage = { depth: 1, total: parts.length };
  let level = await answer(
    run,
    parts.map((part, i) => ({ begin: i, end: i + 1, problem: part, parent: 0 })),
    settings.solve,
    settings,
    stage,
  );
  while (level.length > 1 && !run.stopped) {
    const tasks: Task<State, Answer>[] = [];
    for (let i = 0; i + 1 < level.length; i += 2) {
      const [a, b] = [level[i]!, level[i + 1]!];
      const joined = split!.merge(a.begin, a.end, b.end, a.thought.state, b.thought.state);
      tasks.push({ begin: a.begin, end: b.end, problem: joined, parent: a.thought.id, merged: [b.thought.id] });
    }
    const odd = level.length % 2 === 1 ? [level.at(-1)!] : [];
    stage.depth = Math.max(...level.map(({ thought }) => thought.depth)) + 1;
    level = [...(await answer(run, tasks, settings.merge, settings, stage)), ...odd];
    if (level.length < tasks.length + odd.length) break;
    level = await improve(run, level, settings, stage);
  }
  if (run.solved) run.stopReason ??= "solved";
}

async function improve<State, Answer>(
  run: SearchRun<State, Answer>,
  level: readonly Solved<State, Answer>[],
  settings: Settings,
  stage: { depth: number; total: number },
): Promise<Solved<State, Answer>[]> {
  const isOpen = ({ problem, thought }: Solved<State, Answer>) =>
    problem.improvePrompt !== undefined && !problem.isSolved(thought.state);
  const open = level.filter(isOpen);
  if (settings.improve === 0 || open.length === 0) return [...level];
  stage.depth++;
  const tasks = open.map((solved) => ({ ...solved, parent: solved.thought.id, old: solved.thought }));
  const improved = await answer(run, tasks, settings.improve, settings, stage);
  return level.map((solved) => improved.find(({ begin }) => begin === solved.begin) ?? solved);
}

/** Only an answer to all parts is one to the problem itself. */
function score<State, Answer>(
  run: SearchRun<State, Answer>,
  { begin, end, problem }: Task<State, Answer>,
  thought: LiveThought<State>,
  total: number,
): void {
  const isWhole = begin === 0 && end === total;
  thought.score = (isWhole ? run.problem : problem).score(thought.state);
  run.emit({ type: "thought:scored", thought: thought.id, score: thought.score });
  if (isWhole) run.consider(thought);
  run.release(thought.branch);
}

/** Asks each task `samples` times, all side by side, and keeps the best answer of each. */
async function answer<State, Answer>(
  run: SearchRun<State, Answer>,
  tasks: readonly Task<State, Answer>[],
  samples: number,
  settings: Settings,
  { depth, total }: { depth: number; total: number },
): Promise<Solved<State, Answer>[]> {
  const opened = await Promise.all(
    tasks.map(async ({ problem, old, parent, merged }): Promise<Place> => {
      const prompt = old === undefined ? problem.prompt() : problem.improvePrompt!(old.state);
      return { parent, depth, branch: await run.open(prompt), text: "", ...(merged && { merged }) };
    }),
  );
  const answers: LiveThought<State>[][] = tasks.map(({ old }) => (old === undefined ? [] : [old]));
  const wanted = tasks.flatMap((_, task) => new Array<number>(samples).fill(task));
  const longest = Math.max(...tasks.map(({ problem }) => problem.answerMaxTokens));
  for (let next = 0; next < wanted.length; ) {
    const granted = run.grant(wanted.length - next, longest);
    if (granted === undefined) break;
    const round = wanted.slice(next, next + granted.count);
    const grown = await propose(
      run,
      round.map((task) => opened[task]!),
      round.map((task) => wholeAnswer(tasks[task]!.problem, settings.sampling, granted.maxTokens)),
    );
    for (const thought of grown) {
      const task = opened.indexOf(thought.place);
      score(run, tasks[task]!, thought, total);
      answers[task]!.push(thought);
    }
    next += granted.count;
  }
  for (const place of opened) run.release(place.branch);
  return tasks.flatMap(({ begin, end, problem }, task) => {
    const candidates = answers[task]!;
    if (candidates.length === 0) return [];
    const best = candidates.reduce((a, b) => (b.score > a.score ? b : a));
    const dropped = candidates.filter((thought) => thought !== best);
    run.emit({ type: "level:selected", depth, kept: [best.id], dropped: dropped.map(({ id }) => id) });
    for (const thought of dropped) prune(run, thought, "outscored");
    return [{ begin, end, problem, thought: best }];
  });
}
