/** The file of `deftree eval --out`: what the evaluation is, then its samples as they end. */
import type { EvalCase, EvalSample, UnreadableItem } from "./sample.js";
import { caseKey } from "./sample.js";
import { type LogSettings, SettingsLog } from "./settings-log.js";

/** One start of the command: an evaluation that was cut off has several. */
export interface EvalSession {
  model: string;
  device: string;
  machine: string;
  /** Year, month, day. */
  date: string;
  command: string;
}

type EvalRecord =
  | ({ type: "session" } & EvalSession)
  | ({ type: "sample" } & EvalSample)
  | ({ type: "failed"; error: string } & EvalCase)
  | ({ type: "unreadable"; task: string } & UnreadableItem)
  | { type: "item"; group: string; item: number; input: string };

export class EvalLog implements Disposable {
  readonly #sessions: EvalSession[] = [];
  readonly #samples = new Map<string, EvalSample>();
  readonly #unreadable = new Set<string>();
  readonly #inputs = new Map<string, string>();
  readonly #log: SettingsLog;

  /** As {@link SettingsLog}. `settings`: what decides the samples besides their cases. */
  constructor(file: string | undefined, settings: LogSettings) {
    this.#log = new SettingsLog(file, "eval", settings, (record) => this.#take(record as EvalRecord));
  }

  /** To be called before the first sample. @throws DeftreeError when the log is another model's. */
  begin(session: EvalSession): void {
    this.#log.begin(session.model);
    this.#sessions.push(session);
    this.#log.write({ type: "session", ...session } satisfies EvalRecord);
  }

  get sessions(): readonly EvalSession[] {
    return this.#sessions;
  }

  /** In the order of the log. */
  get samples(): EvalSample[] {
    return [...this.#samples.values()];
  }

  sampleOf(wanted: EvalCase): EvalSample | undefined {
    return this.#samples.get(caseKey(wanted));
  }

  /** @throws DeftreeError when the log's item was another problem. */
  checkItem(group: string, item: number, input: unknown): void {
    const key = `${group} ${item}`;
    const text = JSON.stringify(input);
    const known = this.#inputs.get(key);
    if (known === text) return;
    if (known !== undefined) {
      throw this.#log.refuse(`has another problem as item ${item} of ${group}: it was begun with other data`);
    }
    this.#inputs.set(key, text);
    this.#log.write({ type: "item", group, item, input: text } satisfies EvalRecord);
  }

  add(sample: EvalSample): void {
    this.#samples.set(caseKey(sample), sample);
    this.#log.write({ type: "sample", ...sample } satisfies EvalRecord);
  }

  /** A search that the model ended by an error: it is tried again when the evaluation goes on. */
  fail(failed: EvalCase, error: string): void {
    this.#log.write({ type: "failed", ...failed, error } satisfies EvalRecord);
  }

  /** A row that is no problem, once. */
  unreadable(task: string, item: UnreadableItem): void {
    const record = { type: "unreadable", task, ...item } satisfies EvalRecord;
    const key = JSON.stringify(record);
    if (this.#unreadable.has(key)) return;
    this.#unreadable.add(key);
    this.#log.write(record);
  }

  [Symbol.dispose](): void {
    this.#log[Symbol.dispose]();
  }

  #take(record: EvalRecord): void {
    if (record.type === "sample") {
      const { type: _, ...sample } = record;
      this.#samples.set(caseKey(sample), sample);
    }
    if (record.type === "session") {
      const { type: _, ...session } = record;
      this.#sessions.push(session);
    }
    if (record.type === "item") this.#inputs.set(`${record.group} ${record.item}`, record.input);
    if (record.type === "unreadable") this.#unreadable.add(JSON.stringify(record));
  }
}
