/** What samples say together. */
import { bootstrapMean, type Interval, meanOf } from "./bootstrap.js";
import type { EvalMethod } from "./methods.js";
import { budgetName, type EvalBudget, type EvalGroup, type EvalSample, groupName } from "./sample.js";

/** A method on a group's items with a budget. Intervals hold 95%; figures without one are means of a sample. */
export interface EvalRow extends EvalGroup {
  method: EvalMethod;
  budget: EvalBudget;
  items: number;
  samples: number;
  /** Share of right answers. */
  accuracy: Interval;
  /** `accuracy` less best-of-n's, on the items that both have; an interval without 0 in it is a difference. */
  againstBestOfN?: Interval;
  errors: Interval;
  /** Samples without an answer that can be read: they count with the task's failure score. */
  unreadable: number;
  generatedTokens: number;
  promptTokens: number;
  reusedTokens: number;
  kvBytesRead: number;
  kvBytesUnshared: number;
  seconds: number;
  /** Branches that decode in a step, over all steps; undefined of a model that does not count its steps. */
  width?: number;
}

/** One row for each method and budget of each group, in the order in which the samples have them. */
export function summarize(samples: readonly EvalSample[]): EvalRow[] {
  const rows = groupBy(samples, (sample) => rowKey(sample, sample.method));
  return [...rows.values()].map((row) => {
    const [{ task, size, method, budget }] = row as [EvalSample, ...EvalSample[]];
    const accuracies = byItem(row, ({ solved }) => Number(solved));
    const rival = method === "best-of-n" ? undefined : rows.get(rowKey(row[0]!, "best-of-n"));
    const mean = (of: (sample: EvalSample) => number) => meanOf(row.map(of));
    const steps = sumOf(row, ({ steps }) => steps);
    return {
      ...{ task, size, method, budget, items: accuracies.size, samples: row.length },
      accuracy: bootstrapMean([...accuracies.values()]),
      againstBestOfN:
        rival &&
        difference(
          accuracies,
          byItem(rival, ({ solved }) => Number(solved)),
        ),
      errors: bootstrapMean([...byItem(row, ({ errors }) => errors).values()]),
      unreadable: row.filter(({ unreadable }) => unreadable).length,
      generatedTokens: mean((sample) => sample.generatedTokens),
      promptTokens: mean((sample) => sample.promptTokens),
      reusedTokens: mean((sample) => sample.reusedTokens),
      kvBytesRead: mean((sample) => sample.kvBytesRead),
      kvBytesUnshared: mean((sample) => sample.kvBytesUnshared),
      seconds: mean((sample) => sample.elapsedMs) / 1000,
      width: steps === 0 ? undefined : sumOf(row, ({ tokens }) => tokens) / steps,
    };
  });
}

/** Groups in the order of `items`. */
export function groupBy<T>(items: readonly T[], key: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const group = groups.get(key(item));
    if (group === undefined) groups.set(key(item), [item]);
    else group.push(item);
  }
  return groups;
}

function rowKey(sample: EvalSample, method: EvalMethod): string {
  return [groupName(sample), budgetName(sample.budget), method].join("\n");
}

/** The mean of each item over its seeds. */
function byItem(row: readonly EvalSample[], of: (sample: EvalSample) => number): Map<number, number> {
  const items = groupBy(row, ({ item }) => String(item));
  return new Map([...items.values()].map((samples) => [samples[0]!.item, meanOf(samples.map(of))]));
}

function difference(own: Map<number, number>, rival: Map<number, number>): Interval | undefined {
  const differences = [...own].flatMap(([item, value]) => (rival.has(item) ? [value - rival.get(item)!] : []));
  return differences.length === 0 ? undefined : bootstrapMean(differences);
}

function sumOf(row: readonly EvalSample[], of: (run: EvalSample["widths"][number]) => number): number {
  return row.reduce((sum, { widths }) => sum + widths.reduce((total, run) => total + of(run), 0), 0);
}
