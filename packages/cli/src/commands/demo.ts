import { compareStrategies, describeMachine } from "@deftree/bench";
import { ChatDeftree } from "@deftree/langchain";
import { formatList } from "@deftree/tasks";
import type { Command } from "commander";
import { LiveTree } from "../live-tree.js";
import {
  addModelOptions,
  addSearchOptions,
  demoLength,
  engineOptions,
  integer,
  type ModelFlags,
  type SearchFlags,
} from "../options.js";
import { Output } from "../output.js";
import { methodName, printScores } from "../score-table.js";

interface DemoFlags extends ModelFlags, SearchFlags {
  seed: number;
  signal: AbortSignal;
}

export function addDemoCommand(program: Command): void {
  addSearchOptions(addModelOptions(program.command("demo")), { items: 10 })
    .description("solve sorting problems by Tree of Thoughts through LangChain, beside single-shot and best-of-n")
    .option("--seed <n>", "seed of the sampling", integer(0), 1)
    .action(demo);
}

async function demo(flags: DemoFlags): Promise<void> {
  const output = new Output(flags.json);
  await using model = new ChatDeftree({ ...engineOptions(flags), model: flags.model });
  const { info } = await model.engine();
  output.line(`Sorting ${flags.items} lists of ${flags.length} digits with ${info.modelName} on ${info.description}.`);
  output.line(
    "Tree of Thoughts writes the answer in parts of 8 numbers: at each level it samples several, drops those",
  );
  output.line("that are already wrong, and grows the best. All branches decode in one step on one tree KV cache.\n");

  let view: LiveTree | undefined;
  const scores = await compareStrategies({
    ...flags,
    model,
    onStart(method, item, input) {
      if (method === "tree-of-thoughts") {
        view = new LiveTree(`problem ${item + 1} of ${flags.items}: ${formatList(input)}`, output);
      }
    },
    onEvent(method, _item, event) {
      if (method === "tree-of-thoughts") view?.show(event);
    },
    onFinish(method, item, outcome) {
      const verdict = outcome.solved ? "solved" : `${outcome.errors} errors`;
      const line =
        `problem ${item + 1}: ${methodName(method)}: ${verdict}, ${outcome.statistics.thoughts} thoughts, ` +
        `${outcome.statistics.generatedTokens} tokens`;
      if (method === "tree-of-thoughts" && view) view.finish(line);
      else output.line(line);
    },
  });
  output.line();
  printScores(output, scores);
  if (flags.length === demoLength && flags.model === "mini") {
    output.line(
      `${flags.length} is the length at which mini's greedy answers are right about half of the time, so that search`,
    );
    output.line("has something to do. Best-of-n stops once it is right, else at the tokens that the tree took.");
  }
  output.result({
    command: "demo",
    model: info.modelName,
    device: info.description,
    length: flags.length,
    seed: flags.seed,
    machine: describeMachine(),
    methods: scores,
  });
}
