/**
 * A search's log in the checkpoint of the graph that it runs in. LangGraph saves what a task returns as soon as it ends, and
 * gives it back when the node that called it runs again; each part of the log is such a task's result. So a node that was
 * cut off goes on with the thoughts that it had: texts, token ids and scores, no handle of an engine.
 */
import type { SearchEvent } from "@deftree/search";
import { task } from "@langchain/langgraph";

export class CheckpointedLog {
  readonly #past: SearchEvent[] = [];
  #unsaved: SearchEvent[] = [];
  #saving: Promise<void> | undefined;
  #taskRan = false;

  readonly #save = task({ name: "thoughts" }, async (): Promise<SearchEvent[]> => {
    this.#taskRan = true;
    return this.#unsaved.splice(0);
  });

  private constructor() {}

  /** Inside a node of a graph, at most one at a time. Reads what an earlier run of the node left behind. */
  static async open(): Promise<CheckpointedLog> {
    const log = new CheckpointedLog();
    await log.#read();
    return log;
  }

  /** The events of a search that was cut off here, as a search resumes from them; undefined when there are none. */
  get past(): readonly SearchEvent[] | undefined {
    return this.#past.length > 0 ? this.#past : undefined;
  }

  /** Takes an event, and saves those that a resumed search needs; saving does not keep the search waiting. */
  push(event: SearchEvent<unknown, unknown>): void {
    const kept = forResuming(event);
    if (kept === undefined) return;
    this.#unsaved.push(kept);
    if (kept.type === "thought:started" || this.#saving !== undefined) return;
    this.#saving = this.#saveAll();
    // Told by `flush`; the graph of an aborted run saves no more.
    this.#saving.catch(() => {});
  }

  /** Waits until all is saved; rejects when it could not be. */
  async flush(): Promise<void> {
    await this.#saving;
    await this.#saveAll();
  }

  async #read(): Promise<void> {
    for (let isWhole = false; !isWhole; ) {
      this.#taskRan = false;
      const events = await this.#save();
      if (this.#taskRan) break;
      this.#past.push(...events);
      isWhole = events.at(-1)?.type === "done";
    }
    // After a search that failed, its node may have begun anew, on the same search, whose thoughts are the same, or another.
    const first = JSON.stringify(this.#past[0]);
    const other = this.#past.findIndex((event) => event.type === "search:started" && JSON.stringify(event) !== first);
    if (other > 0) this.#past.length = other;
  }

  async #saveAll(): Promise<void> {
    while (this.#unsaved.length > 0) await this.#save();
    this.#saving = undefined;
  }
}

/** Without the states, which may be anything: a resumed search reads them from the texts again. */
function forResuming(event: SearchEvent<unknown, unknown>): SearchEvent | undefined {
  switch (event.type) {
    case "search:started":
    case "thought:finished":
      return { ...event, state: undefined };
    case "thought:started":
    case "thought:scored":
    case "parts:listed":
    case "done":
      return event;
    default:
      return undefined;
  }
}
