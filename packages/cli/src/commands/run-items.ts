/** What `deftree run` solves: generated instances, or the rows of a file. */
import { readFile } from "node:fs/promises";
import { firstFixedProblem } from "@deftree/bench";
import { DeftreeError } from "@deftree/engine";
import type { AnyTask, DataFormat } from "@deftree/tasks";
import { demoLength } from "../options.js";

/** Items count from 1. One of a file has its row, and says why where that row cannot be read. */
export interface RunItem {
  readonly item: number;
  readonly row?: number;
  readonly input?: unknown;
  readonly error?: string;
}

/** Of generated problems: the smallest of the task, and of lists to sort the demo's. */
export function defaultSize(task: AnyTask): number {
  return task.name === "sorting" ? demoLength : task.sizes[0]!;
}

export function generateItems(task: AnyTask, size: number, items: number): RunItem[] {
  try {
    return Array.from({ length: items }, (_, i) => ({
      item: i + 1,
      input: task.generate(size, firstFixedProblem + i),
    }));
  } catch (cause) {
    throw new DeftreeError("E_BAD_ARGUMENT", `--size ${size}: ${(cause as Error).message}`, { cause });
  }
}

/**
 * The first rows of a CSV file or, by its name, of JSON Lines.
 * @throws DeftreeError when the file, or every row of it, cannot be read.
 */
export async function readItems(task: AnyTask, file: string, items: number): Promise<RunItem[]> {
  const format: DataFormat = /\.(jsonl|ndjson)$/i.test(file) ? "jsonl" : "csv";
  let rows: ReturnType<AnyTask["readData"]>;
  try {
    rows = task.readData(await readFile(file, "utf8"), format).slice(0, items);
  } catch (cause) {
    throw new DeftreeError("E_BAD_ARGUMENT", `--data ${file} cannot be read: ${(cause as Error).message}`, { cause });
  }
  if (rows.every((row) => row.error !== undefined)) {
    const first = rows[0]?.error ?? "it has no rows";
    throw new DeftreeError(
      "E_BAD_ARGUMENT",
      `--data ${file} has no row that can be read: ${first}; ${task.name} wants the columns ${task.columns.join(", ")}`,
    );
  }
  return rows.map(({ row, instance, error }, i) => ({ item: i + 1, row, input: instance, error }));
}
