/**
 * The file of `deftree run --out`, JSON Lines, appended to as things happen: what the run is; then for each item that it
 * began, the search's events, and how the item ended. A search that was cut off begins anew in the file, with all that it
 * had, when it goes on; so of several attempts the longest holds the most.
 */
import { type LogSettings, SettingsLog } from "@deftree/eval";
import { formatEvent, type SearchEvent, type SearchStatistics } from "@deftree/search";

export interface ItemOutcome {
  item: number;
  /** The task's error measure; its failure score where no answer can be read. */
  errors: number;
  solved: boolean;
  answer: unknown;
  statistics: SearchStatistics;
}

type RunRecord =
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
  readonly #log: SettingsLog;
  /** The item that the events after it in the file belong to. */
  #current: LoggedItem | undefined;

  /** As {@link SettingsLog}. */
  constructor(file: string | undefined, settings: LogSettings) {
    this.#log = new SettingsLog(file, "run", settings, (record) => {
      this.#current = this.#take(record as RunRecord | SearchEvent, this.#current);
    });
  }

  /** To be called once the model's name is known. @throws DeftreeError when the log is another model's. */
  begin(model: string): void {
    this.#log.begin(model);
  }

  /** @throws DeftreeError when the log's item was another one. */
  outcomeOf(item: number, input: unknown): ItemOutcome | undefined {
    const logged = this.#items.get(item);
    if (logged?.input !== undefined && logged.input !== JSON.stringify(input)) {
      throw this.#log.refuse(`has another problem as item ${item}: the data are not those that it was begun with`);
    }
    return logged?.outcome;
  }

  /** The events of an item that was cut off. */
  eventsOf(item: number): readonly SearchEvent[] | undefined {
    const longest = this.#items.get(item)?.longest;
    return longest?.[0]?.type === "search:started" ? longest : undefined;
  }

  startItem(item: number, input: unknown, row?: number): void {
    this.#log.write({ type: "item:started", item, row, input });
  }

  /** The pieces of a thought are left out: its text comes whole at its end. */
  event(event: SearchEvent<unknown, unknown>): void {
    if (event.type !== "thought:tokens") this.#log.append(formatEvent(event));
  }

  finishItem(outcome: ItemOutcome): void {
    this.#log.write({ type: "item:done", ...outcome });
  }

  /** A row that is no problem, once. */
  unreadable(item: number, error: string, row?: number): void {
    if (this.#items.get(item)?.unreadable === error) return;
    this.#log.write({ type: "item:unreadable", item, row, error });
  }

  /** A search that the model or the problem ended by an error: it is tried again when the run goes on. */
  failItem(item: number, error: string): void {
    this.#log.write({ type: "item:failed", item, error });
  }

  [Symbol.dispose](): void {
    this.#log[Symbol.dispose]();
  }

  /** Takes in one line; returns the item that the events after it belong to. */
  #take(record: RunRecord | SearchEvent, current: LoggedItem | undefined): LoggedItem | undefined {
    switch (record.type) {
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
}
