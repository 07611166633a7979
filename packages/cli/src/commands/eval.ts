import { writeFile } from "node:fs/promises";
import { describeMachine } from "@deftree/bench";
import { DeftreeError } from "@deftree/engine";
import {
  budgetName,
  countCases,
  defaultBudgets,
  type EvalBudget,
  EvalLog,
  type EvalMethod,
  type EvalPart,
  type EvalRow,
  evalMethods,
  evaluate,
  groupBy,
  groupName,
  htmlReport,
  type Interval,
  type LogSettings,
  referenceMethod,
  summarize,
  type UnreadableItem,
} from "@deftree/eval";
import { ChatDeftree, EngineThoughtModel } from "@deftree/langchain";
import { type AnyTask, TASKS, type TaskName } from "@deftree/tasks";
import { Argument, type Command, InvalidArgumentError } from "commander";
import { addModelOptions, engineOptions, integer, integers, type ModelFlags, numbers } from "../options.js";
import { formatBytes, formatCount, Output } from "../output.js";
import { defaultSize, generateItems, type RunItem, readItems } from "./run-items.js";

interface EvalFlags extends ModelFlags {
  size?: number[];
  items: number;
  data?: string;
  methods?: string[];
  tokens?: number[];
  seconds?: number[];
  seeds: number;
  width: number;
  keep: number;
  out?: string;
  html?: string;
  report: boolean;
  signal: AbortSignal;
}

export function addEvalCommand(program: Command): void {
  addModelOptions(program.command("eval"))
    .description(
      "every method on the same problems, with the same tokens and in the same time; Ctrl-C ends it with what it has",
    )
    .addArgument(new Argument("<tasks...>", "what to solve").choices(Object.keys(TASKS)))
    .option("--size <n,...>", "sizes of the generated problems (default: as deftree run)", integers(1))
    .option("--items <n>", "problems of each task and size", integer(1), 10)
    .option("--data <file>", ".csv or .jsonl of one task's problems instead of generated ones")
    .option("--methods <name,...>", "what to compare (default: every method that the task has)", names)
    .option(
      "--tokens <n,...>",
      "budgets of generated tokens for a problem (default: 1, 4 and 16 whole answers)",
      integers(1),
    )
    .option(
      "--seconds <s,...>",
      `budgets of time for a problem; 0 for none (default: what ${referenceMethod} takes for the most tokens)`,
      numbers(0),
    )
    .option("--seeds <n>", "seeds 1..n, one search each", integer(1), 3)
    .option("--width <n>", "thoughts per level of tot:continue", integer(1), 8)
    .option("--keep <n>", "thoughts kept per level of tot:continue", integer(1), 3)
    .option("--out <file>", "log in JSON Lines; given one that was cut off, the evaluation goes on where it ended")
    .option("--html <file>", "report with plots: one file that needs no network")
    .option("--report", "run nothing: show what the log of --out has", false)
    .action(runEval);
}

function names(text: string): string[] {
  const known = new Set(Object.keys(TASKS).flatMap((task) => evalMethods(task as TaskName) as string[]));
  const wanted = text.split(",");
  const unknown = wanted.find((name) => !known.has(name));
  if (unknown !== undefined) throw new InvalidArgumentError(`${unknown} is none of ${[...known].join(", ")}.`);
  return wanted;
}

async function runEval(tasks: TaskName[], flags: EvalFlags): Promise<void> {
  const output = new Output(flags.json);
  if (flags.report && flags.out === undefined) {
    throw new DeftreeError("E_BAD_ARGUMENT", "--report shows what a log has: name it with --out");
  }
  const { parts, unreadable } = await makeParts(tasks, flags);
  using log = new EvalLog(flags.out, settingsOf(flags));
  if (!flags.report) await runParts(output, flags, parts, unreadable, log);
  if (flags.signal.aborted && flags.out !== undefined) {
    output.progress(`stopped; the same command goes on from ${flags.out}`);
  }
  await show(output, flags, parts, unreadable, log);
}

async function runParts(
  output: Output,
  flags: EvalFlags,
  parts: readonly EvalPart[],
  unreadable: readonly LeftOutRow[],
  log: EvalLog,
): Promise<void> {
  await using model = new ChatDeftree({ ...engineOptions(flags), model: flags.model });
  const engine = await model.engine();
  const { modelName, description } = engine.info;
  const { cpu, cores, platform, date } = describeMachine();
  const command = `deftree ${process.argv.slice(2).join(" ")}`;
  const machine = `${cores} cores of ${cpu}, ${platform}`;
  log.begin({ model: modelName, device: description, machine, date, command });
  for (const { task, ...item } of unreadable) {
    log.unreadable(task, item);
    output.progress(`row ${item.row} is left out: ${item.error}`);
  }
  const { seeds, signal, width, keep } = flags;
  const total = countCases({ parts, seeds });
  output.progress(`${modelName} on ${description}: ${total} searches, ${log.samples.length} of them in the log`);
  const bar = new Progress(output, total, log.samples.length);
  await evaluate({
    ...{ parts, seeds, log, signal, model: new EngineThoughtModel(engine) },
    ...{ tree: { width, keep }, kvBytes: kvShare * engine.info.kvBytes, counters: () => engine.stats() },
    onSample: (sample) => bar.step(`${groupName(sample)}, problem ${sample.item}`),
    onFail(failed, error) {
      process.exitCode = 1;
      output.progress(`${groupName(failed)}, problem ${failed.item}, ${failed.method}: failed, ${error}`);
    },
  });
}

/** What the log has, of this command's tasks or of others. */
async function show(
  output: Output,
  flags: EvalFlags,
  parts: readonly EvalPart[],
  unreadable: readonly LeftOutRow[],
  log: EvalLog,
): Promise<void> {
  const { samples, sessions } = log;
  const rows = summarize(samples);
  if (rows.length === 0) output.line("Nothing was run to its end.");
  for (const [name, group] of groupBy(rows, groupName)) {
    for (const [budget, ofBudget] of groupBy(group, (row) => budgetName(row.budget))) {
      output.line(`${name}, ${budget}`);
      printRows(output, ofBudget);
    }
  }
  if (flags.html !== undefined) await writeReport(flags.html, htmlReport({ samples, sessions, unreadable }));
  output.result({ command: "eval", sessions, groups: parts.map(groupName), seeds: flags.seeds, rows, unreadable });
}

function printRows(output: Output, rows: readonly EvalRow[]): void {
  output.table(
    [
      "method",
      "right (95%)",
      "against best-of-n",
      "errors",
      "no answer",
      "tokens",
      "seconds",
      "width",
      "KV read",
      "unshared",
    ],
    rows.map((row) => [
      row.method,
      interval(row.accuracy),
      row.againstBestOfN ? interval(row.againstBestOfN) : "",
      row.errors.mean.toFixed(2),
      `${row.unreadable}/${row.samples}`,
      formatCount(row.generatedTokens),
      row.seconds.toFixed(2),
      row.width?.toFixed(1) ?? "",
      formatBytes(row.kvBytesRead),
      formatBytes(row.kvBytesUnshared),
    ]),
  );
}

function interval({ mean, low, high }: Interval): string {
  const [middle, from, to] = [mean, low, high].map((share) => (100 * share).toFixed(0));
  return `${middle}% (${from} to ${to})`;
}

async function writeReport(file: string, html: string): Promise<void> {
  try {
    await writeFile(file, html);
  } catch (cause) {
    throw new DeftreeError("E_BAD_ARGUMENT", `--html ${file} cannot be written: ${(cause as Error).message}`, {
      cause,
    });
  }
}

type LeftOutRow = UnreadableItem & { task: TaskName };

async function makeParts(
  tasks: readonly TaskName[],
  flags: EvalFlags,
): Promise<{ parts: EvalPart[]; unreadable: LeftOutRow[] }> {
  const { data, size: sizes } = flags;
  if (data !== undefined && (tasks.length > 1 || sizes !== undefined)) {
    throw new DeftreeError("E_BAD_ARGUMENT", "--data holds the problems of one task, and needs no --size");
  }
  const parts: EvalPart[] = [];
  const unreadable: LeftOutRow[] = [];
  for (const name of new Set(tasks)) {
    const task = TASKS[name];
    const methods = methodsOf(name, flags);
    const add = (items: readonly RunItem[], size?: number) => {
      const readable = items.flatMap(({ item, input, error }) => (error === undefined ? [{ item, input }] : []));
      parts.push({ task: name, size, items: readable, methods, budgets: budgetsOf(name, readable, methods, flags) });
      unreadable.push(
        ...items.flatMap(({ item, row, error }) => (error === undefined ? [] : [{ task: name, item, row, error }])),
      );
    };
    if (data !== undefined) add((await readItems(task, data, flags.items)).map((row) => checked(task, row)));
    else for (const size of sizes ?? [defaultSize(task)]) add(generateItems(task, size, flags.items), size);
  }
  return { parts, unreadable };
}

/** A row may be read well and be no problem: a passage that names no country. */
function checked(task: AnyTask, row: RunItem): RunItem {
  if (row.error !== undefined) return row;
  try {
    task.problem(row.input);
    return row;
  } catch (error) {
    return { ...row, error: (error as Error).message };
  }
}

function methodsOf(task: TaskName, { methods }: EvalFlags): EvalMethod[] {
  const known = evalMethods(task);
  const wanted = methods === undefined ? known : known.filter((method) => methods.includes(method));
  if (wanted.length === 0) {
    throw new DeftreeError("E_BAD_ARGUMENT", `${task} has none of the methods; it has ${known.join(", ")}`);
  }
  return wanted;
}

function budgetsOf(
  task: TaskName,
  items: EvalPart["items"],
  methods: readonly EvalMethod[],
  { tokens, seconds }: EvalFlags,
): EvalBudget[] {
  const defaults = defaultBudgets(task, items);
  const ofTokens = tokens?.toSorted((a, b) => a - b).map((limit) => ({ tokens: limit }));
  const ofTime = seconds?.filter((limit) => limit > 0).map((limit) => ({ seconds: limit }));
  return [
    ...(ofTokens ?? defaults.filter((budget) => "tokens" in budget)),
    ...(ofTime ?? defaults.filter((budget) => "seconds" in budget && methods.includes(referenceMethod))),
  ];
}

/** What decides the samples besides what each says of itself. */
function settingsOf({ data, weights, kv, attention, width, keep }: EvalFlags): LogSettings {
  return { data, weights, kv, attention, width, keep };
}

/** Searches done, and about how long the others take; a line every few seconds. */
class Progress {
  #done: number;
  readonly #before: number;
  readonly #startedAt = performance.now();
  #shownAt = performance.now();

  constructor(
    private readonly output: Output,
    private readonly total: number,
    done: number,
  ) {
    this.#done = done;
    this.#before = done;
  }

  step(where: string): void {
    this.#done++;
    const now = performance.now();
    if (now - this.#shownAt < progressMs && this.#done < this.total) return;
    this.#shownAt = now;
    const perSearch = (now - this.#startedAt) / (this.#done - this.#before);
    const minutes = ((this.total - this.#done) * perSearch) / 60_000;
    this.output.progress(`${this.#done} of ${this.total} searches, about ${minutes.toFixed(1)} min more; ${where}`);
  }
}

const progressMs = 5000;

/** Of the engine's KV pages; what pages round up stays free. */
const kvShare = 0.85;
