/**
 * The file of `deftree run --out`, JSON Lines, appended to as things happen: what the run is; then for each item that it
 * began, the search's events, and how the item ended. A search that was cut off begins anew in the file, with all that it
 * had, when it goes on; so of several attempts the longest holds the most.
 */
import { closeSync, fstatSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { DeftreeError } from "@deftree/engine";
import { formatEvent, readEventLog, type SearchEvent, type SearchStatistics } from "@deftree/search";

/** What has to be the same for a run to go on: a flat record. */
export type RunSettings = Readonly<Record<string, string | number | undefined>>;

export interface ItemOutcome {
  item: number;
  /** The task's error measure; its failure score where no answer can be read. */
  errors: number;
  solved: boolean;
  answer: unknown;
  statistics: SearchStatistics;
}

type RunRecord =
  | ({ type: "run:started"; model?: string } & RunSettings)
  | { type: "item:started"; item: number; row?: number; input: unknown }
  | ({ type: "item:done" } & ItemOutcome)
  | { type: "item:unreadable"; item: number; row?: number; error: string }
  | { type: "item:failed"; item: number; error: string };

interface LoggedItem {
  input?: string;
  attempt: SearchEvent[];
  longest: SearchEvent[];
  outcome?: ItemOutcome;
  unreadable?: string;
}

export class RunLog {
  readonly #items = new Map<number, LoggedItem>();
  #started: RunSettings | undefined;
  #fd: number | undefined;

  /**
   * Opens `file`, or makes it; without one nothing is kept.
   * @throws DeftreeError on a file that cannot be written, is no log of a run, or is one of other settings.
   */
  constructor(
    readonly file: string | undefined,
    private readonly settings: RunSettings,
  ) {
    if (file === undefined) return;
    try {
      this.#fd = openSync(file, "a+");
    } catch (cause) {
      throw this.#refuse(`cannot be written: ${(cause as Error).message}`, cause);
    }
    // A device or a pipe may have no end to read to.
    if (!fstatSync(this.#fd).isFile()) throw this.#refuse("is no plain file");
    const bytes = readFileSync(this.#fd);
    const end = bytes.lastIndexOf("\n") + 1;
    this.#read(bytes.toString("utf8", 0, end), bytes.length);
    // A line that a crash cut off would make what follows unreadable.
    if (end < bytes.length) ftruncateSync(this.#fd, end);
  }

  /** To be called once the model's name is known. @throws DeftreeError when the log is another model's. */
  begin(model: string): void {
    if (this.#started === undefined) this.#write({ type: "run:started", ...this.settings, model });
    else this.#check({ model });
  }

  /** @throws DeftreeError when the log's item was another one. */
  outcomeOf(item: number, input: unknown): ItemOutcome | undefined {
    const logged = this.#items.get(item);
    if (logged?.input !== undefined && logged.input !== JSON.stringify(input)) {
      throw this.#refuse(`has another problem as item ${item}: the data are not those that it was begun with`);
    }
    return logged?.outcome;
  }

  /** The events of an item that was cut off. */
  eventsOf(item: number): readonly SearchEvent[] | undefined {
    const longest = this.#items.get(item)?.longest;
    return longest?.[0]?.type === "search:started" ? longest : undefined;
  }

  startItem(item: number, input: unknown, row?: number): void {
    this.#write({ type: "item:started", item, row, input });
  }

  /** The pieces of a thought are left out: its text comes whole at its end. */
  event(event: SearchEvent<unknown, unknown>): void {
    if (event.type !== "thought:tokens") this.#append(formatEvent(event));
  }

  finishItem(outcome: ItemOutcome): void {
    this.#write({ type: "item:done", ...outcome });
  }

  /** A row that is no problem, once. */
  unreadable(item: number, error: string, row?: number): void {
    if (this.#items.get(item)?.unreadable === error) return;
    this.#write({ type: "item:unreadable", item, row, error });
  }

  /** A search that the model or the problem ended by an error: it is tried again when the run goes on. */
  failItem(item: number, error: string): void {
    this.#write({ type: "item:failed", item, error });
  }

  [Symbol.dispose](): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  #read(text: string, size: number): void {
    let records: (RunRecord | SearchEvent)[];
    try {
      records = readEventLog(text) as (RunRecord | SearchEvent)[];
    } catch (cause) {
      throw this.#refuse(`is no log of a run: ${(cause as Error).message}`, cause);
    }
    const [first, ...rest] = records;
    if (first === undefined && size === 0) return;
    if (first?.type !== "run:started") throw this.#refuse("is no log of a run");
    const { type: _, ...started } = first;
    this.#started = started;
    this.#check(this.settings);
    let item: LoggedItem | undefined;
    for (const record of rest) item = this.#take(record, item);
  }

  /** Takes in one line; returns the item that the events after it belong to. */
  #take(record: RunRecord | SearchEvent, current: LoggedItem | undefined): LoggedItem | undefined {
    switch (record.type) {
      case "run:started":
        return current;
      case "item:started": {
        const item = this.#item(record.item);
        item.input = JSON.stringify(record.input);
        item.attempt = [];
        return item;
      }
      case "item:done": {
        const { type: _, ...outcome } = record;
        this.#item(record.item).outcome = outcome;
        return undefined;
      }
      case "item:unreadable":
        this.#item(record.item).unreadable = record.error;
        return undefined;
      case "item:failed":
        return undefined;
      default:
        current?.attempt.push(record);
        if (current && current.attempt.length > current.longest.length) current.longest = current.attempt;
        return current;
    }
  }

  #item(number: number): LoggedItem {
    const item = this.#items.get(number) ?? { attempt: [], longest: [] };
    this.#items.set(number, item);
    return item;
  }

  #check(now: RunSettings): void {
    for (const name of Object.keys(now)) {
      const was = this.#started?.[name];
      if (was === now[name]) continue;
      throw this.#refuse(
        `is the log of another run: its ${name} is ${show(was)}, this one's ${show(now[name])}. ` +
          "Give the options that it was begun with, or another file",
      );
    }
  }

  #write(record: RunRecord): void {
    this.#append(`${JSON.stringify(record)}\n`);
  }

  #append(line: string): void {
    if (this.#fd === undefined) return;
    try {
      writeSync(this.#fd, line);
    } catch (cause) {
      throw this.#refuse(`cannot be written: ${(cause as Error).message}`, cause);
    }
  }

  #refuse(reason: string, cause?: unknown): DeftreeError {
    return new DeftreeError("E_BAD_ARGUMENT", `--out ${this.file} ${reason}`, { cause });
  }
}

function show(value: unknown): string {
  return JSON.stringify(value) ?? "not given";
}
