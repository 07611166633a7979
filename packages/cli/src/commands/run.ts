import { sortingTree, sumOutcomes } from "@deftree/bench";
import type { LogSettings } from "@deftree/eval";
import { ChatDeftree, EngineThoughtModel } from "@deftree/langchain";
import {
  bestOfN,
  breadthFirst,
  cachedAnswers,
  type SearchEvent,
  type Strategy,
  search,
  singleShot,
} from "@deftree/search";
import {
  type AnyTask,
  answerErrors,
  type Method,
  type MethodName,
  methodFor,
  methodNames,
  TASKS,
} from "@deftree/tasks";
import { type Command, Option } from "commander";
import { LiveTree } from "../live-tree.js";
import { addModelOptions, engineOptions, integer, type ModelFlags } from "../options.js";
import { formatBytes, formatCount, Output } from "../output.js";
import { defaultSize, generateItems, type RunItem, readItems } from "./run-items.js";
import { type ItemOutcome, RunLog } from "./run-log.js";

interface RunFlags extends ModelFlags {
  items: number;
  size?: number;
  length?: number;
  method?: MethodName;
  strategy: "tot" | "best-of-n" | "single";
  grow?: "continue" | "reprompt";
  width: number;
  keep: number;
  data?: string;
  paper: boolean;
  seed: number;
  out?: string;
  signal: AbortSignal;
}

/** What became of all items, those of an earlier part of the run included. */
interface RunResults {
  outcomes: { input: unknown; outcome: ItemOutcome }[];
  unreadable: { item: number; row?: number; error: string }[];
  failed: { item: number; error: string }[];
}

export function addRunCommand(program: Command): void {
  const run = program.command("run").description("solve a task's problems, one search each");
  for (const task of Object.values(TASKS)) addTask(run, task);
}

function addTask(run: Command, task: AnyTask): void {
  const command = addModelOptions(run.command(task.name))
    .description(`${task.name} problems, generated ones or your own`)
    .addOption(
      new Option("--method <name>", "a method of Graph of Thoughts, with its parameters for the task and size")
        .choices(methodNames(task.name))
        .conflicts(["strategy", "width", "keep"]),
    )
    .addOption(
      new Option("--strategy <name>", "how to search, by hand").choices(["tot", "best-of-n", "single"]).default("tot"),
    )
    .addOption(
      new Option(
        "--grow <way>",
        "trees: parts of one answer (default of --strategy), or whole answers improved by new prompts (of --method)",
      ).choices(["continue", "reprompt"]),
    )
    .option("--width <n>", "thoughts per level; with best-of-n answers", integer(1), 8)
    .option("--keep <n>", "thoughts kept per level, where they continue", integer(1), 3)
    .option("--items <n>", "problems", integer(1), 10)
    .option("--size <n>", `${task.sizeUnit} of a generated problem (default: ${defaultSize(task)})`, integer(1))
    .option("--data <file>", `.csv or .jsonl with ${task.columns.join(", ")} instead of generated problems`)
    .option("--paper", "paper mode: a prompt that comes again has the answers it had, as in the original runs", false)
    .option("--seed <n>", "seed of the sampling", integer(0), 1)
    .option("--out <file>", "log in JSON Lines; given one that was cut off, the run goes on where it ended");
  if (task.name === "sorting") {
    command.addOption(new Option("--length <n>", "the same as --size").argParser(integer(1)).conflicts("size"));
  }
  command.action((flags: RunFlags) => runTask(task, flags));
}

async function runTask(task: AnyTask, flags: RunFlags): Promise<void> {
  const output = new Output(flags.json);
  const size = flags.data === undefined ? (flags.size ?? flags.length ?? defaultSize(task)) : undefined;
  const items =
    size === undefined ? await readItems(task, flags.data!, flags.items) : generateItems(task, size, flags.items);
  const settings = settingsOf(task, flags, size);
  using log = new RunLog(flags.out, settings);
  const results: RunResults = { outcomes: [], unreadable: [], failed: [] };
  const open = items.filter((item) => !takeKnown(item, log, results));

  await using model = new ChatDeftree({ ...engineOptions(flags), model: flags.model });
  const engine = await model.engine();
  const { modelName, description } = engine.info;
  log.begin(modelName);
  output.progress(
    `${modelName} on ${description}: ${items.length} problems by ${flags.method ?? flags.strategy}` +
      (results.outcomes.length > 0 ? `, ${results.outcomes.length} of them done already` : ""),
  );
  for (const { item, row, error } of results.unreadable) {
    log.unreadable(item, error, row);
    output.progress(`row ${row} is left out: ${error}`);
  }

  const searched = new EngineThoughtModel(engine);
  let firstError: unknown;
  for (const item of open) {
    if (flags.signal.aborted) break;
    const title = `problem ${item.item} of ${items.length}: ${task.describe(item.input).slice(0, 400)}`;
    const view = new LiveTree(title, output);
    try {
      const outcome = await solve(task, item, flags, searched, log, (event) => view.show(event));
      if (outcome === undefined) {
        view.finish(`problem ${item.item}: stopped`);
        break;
      }
      results.outcomes.push({ input: item.input, outcome });
      view.finish(describeOutcome(outcome));
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      log.failItem(item.item, message);
      results.failed.push({ item: item.item, error: message });
      firstError ??= error;
      view.finish(`problem ${item.item}: failed, ${message}`);
    }
  }
  if (flags.signal.aborted && flags.out !== undefined) {
    output.progress(`stopped; the same command goes on from ${flags.out}`);
  }
  if (firstError !== undefined) {
    if (results.outcomes.length === 0) throw firstError;
    process.exitCode = 1;
  }
  report(output, results, { command: "run", model: modelName, ...settings });
}

/** What decides the answers besides the model and the data. */
function settingsOf(task: AnyTask, flags: RunFlags, size: number | undefined): LogSettings {
  const { method, strategy, grow, width, keep, paper, seed } = flags;
  const byHand = method === undefined ? { strategy, width, keep } : {};
  return {
    task: task.name,
    method,
    ...byHand,
    grow: grow ?? (method === undefined ? "continue" : "reprompt"),
    size,
    paper: paper ? "on" : undefined,
    seed,
  };
}

/** Takes over an item that needs no search: the log has its outcome, or its row cannot be read. */
function takeKnown({ item, row, input, error }: RunItem, log: RunLog, results: RunResults): boolean {
  if (error !== undefined) {
    results.unreadable.push({ item, row, error });
    return true;
  }
  const outcome = log.outcomeOf(item, input);
  if (outcome !== undefined) results.outcomes.push({ input, outcome });
  return outcome !== undefined;
}

/** One search; undefined when it was stopped by the signal. */
async function solve(
  task: AnyTask,
  { item, row, input }: RunItem,
  flags: RunFlags,
  model: EngineThoughtModel,
  log: RunLog,
  onEvent: (event: SearchEvent<unknown, unknown>) => void,
): Promise<ItemOutcome | undefined> {
  const { problem, strategy } = methodOf(task, input, flags);
  // The log of a search does not say which answer was a repeated one.
  const resume = flags.paper ? undefined : log.eventsOf(item);
  log.startItem(item, input, row);
  const searched = flags.paper ? cachedAnswers(model) : model;
  const running = search(problem, strategy, searched, { seed: flags.seed, signal: flags.signal, resume });
  for await (const event of running) {
    log.event(event);
    onEvent(event);
  }
  const { best, answer, statistics, stopReason } = await running;
  if (stopReason === "aborted") return undefined;
  const errors = answerErrors(task, input, problem, best?.state);
  const outcome = { item, errors, solved: errors === 0, answer, statistics };
  log.finishItem(outcome);
  return outcome;
}

function methodOf(task: AnyTask, input: unknown, flags: RunFlags): Method {
  if (flags.method !== undefined) return methodFor(task.name, input, flags.method, { grow: flags.grow });
  const problem = task.problem(input);
  const parts = Math.ceil(problem.answerMaxTokens / problem.thought.maxTokens);
  return { problem, strategy: byHand(flags, task.name === "sorting" ? task.sizeOf(input) : undefined, parts) };
}

/** `length`: of a list to sort; `parts`: most thoughts that an answer of another task takes. */
function byHand({ strategy, grow, width, keep }: RunFlags, length: number | undefined, parts: number): Strategy {
  switch (strategy) {
    case "single":
      return singleShot();
    case "best-of-n":
      return bestOfN({ n: width });
    case "tot": {
      if (length !== undefined) return sortingTree({ length, grow, width, keep });
      const continues = grow !== "reprompt";
      const shape = { grow: grow ?? "continue", keep: continues ? keep : 1, depth: continues ? parts + 1 : 4 };
      return breadthFirst({ ...shape, width, attempts: 4 * width });
    }
  }
}

function describeOutcome({ item, errors, solved, answer, statistics }: ItemOutcome): string {
  const counted = Number(errors.toFixed(2));
  const said = solved ? "solved" : answer === undefined ? `no readable answer, ${counted} errors` : `${counted} errors`;
  return `problem ${item}: ${said}, ${statistics.thoughts} thoughts, ${statistics.generatedTokens} tokens`;
}

function report(output: Output, { outcomes, unreadable, failed }: RunResults, head: object): void {
  if (failed.length > 0) output.line(`${failed.length} problems failed; the first: ${failed[0]!.error}`);
  if (outcomes.length === 0) return;
  outcomes.sort((a, b) => a.outcome.item - b.outcome.item);
  const sums = sumOutcomes(outcomes.map(({ outcome }) => outcome));
  output.line(
    `${sums.solved} of ${sums.items} exact, ${sums.meanErrors.toFixed(2)} errors on average; ` +
      `${formatCount(sums.generatedTokens)} tokens at ${formatCount(sums.tokensPerSecond)} a second; ` +
      `${formatCount(sums.reusedTokens)} of ${formatCount(sums.promptTokens)} prompt tokens reused; ` +
      `KV read ${formatBytes(sums.kvBytesRead)} instead of ${formatBytes(sums.kvBytesUnshared)}`,
  );
  output.result({
    ...head,
    ...sums,
    problems: outcomes.map(({ input, outcome: { item, errors, answer } }) => ({ item, input, answer, errors })),
    unreadable,
    failed,
  });
}
