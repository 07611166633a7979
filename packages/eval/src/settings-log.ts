/**
 * A file of JSON Lines that is appended to as things happen and read when the work goes on. Its first line says what the
 * work is; a file of other settings, or of something else, is refused and left as it is. A line that a crash cut off is dropped.
 */
import { closeSync, fstatSync, ftruncateSync, openSync, readFileSync, writeSync } from "node:fs";
import { DeftreeError } from "@deftree/engine";

/** What has to be the same for the work to go on: a flat record. */
export type LogSettings = Readonly<Record<string, string | number | undefined>>;

const works = {
  run: { one: "a run", another: "another run" },
  eval: { one: "an evaluation", another: "another evaluation" },
};

export class SettingsLog implements Disposable {
  #started: LogSettings | undefined;
  #fd: number | undefined;

  /**
   * Opens `file`, or makes it; without one nothing is kept. `kind` begins the type of its first line, "run:started"; `take`
   * gets the lines after it.
   * @throws DeftreeError on a file that cannot be written, is none of this kind, or is one of other settings.
   */
  constructor(
    readonly file: string | undefined,
    private readonly kind: keyof typeof works,
    private readonly settings: LogSettings,
    take: (record: { type: string }) => void,
  ) {
    if (file === undefined) return;
    try {
      this.#fd = openSync(file, "a+");
    } catch (cause) {
      throw this.refuse(`cannot be written: ${(cause as Error).message}`, cause);
    }
    try {
      this.#takeOver(take);
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** To be called once the model's name is known. @throws DeftreeError when the log is another model's. */
  begin(model: string): void {
    if (this.#started === undefined) {
      this.#started = { ...this.settings, model };
      this.write({ type: `${this.kind}:started`, ...this.#started });
    } else this.#check({ model });
  }

  write(record: object): void {
    this.append(`${JSON.stringify(record)}\n`);
  }

  /** Whole lines. */
  append(lines: string): void {
    if (this.#fd === undefined) return;
    try {
      writeSync(this.#fd, lines);
    } catch (cause) {
      throw this.refuse(`cannot be written: ${(cause as Error).message}`, cause);
    }
  }

  refuse(reason: string, cause?: unknown): DeftreeError {
    return new DeftreeError("E_BAD_ARGUMENT", `--out ${this.file} ${reason}`, { cause });
  }

  [Symbol.dispose](): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  #takeOver(take: (record: { type: string }) => void): void {
    // A device or a pipe may have no end to read to.
    if (!fstatSync(this.#fd!).isFile()) throw this.refuse("is no plain file");
    const bytes = readFileSync(this.#fd!);
    const end = bytes.lastIndexOf("\n") + 1;
    const [first, ...rest] = this.#parse(bytes.toString("utf8", 0, end));
    if (first === undefined && bytes.length === 0) return;
    if (first?.type !== `${this.kind}:started`) throw this.refuse(`is no log of ${works[this.kind].one}`);
    const { type: _, ...started } = first;
    this.#started = started;
    this.#check(this.settings);
    for (const record of rest) take(record);
    // A line that a crash cut off would make what follows unreadable.
    if (end < bytes.length) ftruncateSync(this.#fd!, end);
  }

  #parse(text: string): { type: string }[] {
    const records: { type: string }[] = [];
    for (const [index, line] of text.split("\n").entries()) {
      if (line === "") continue;
      let record: unknown;
      try {
        record = JSON.parse(line);
      } catch {}
      if (typeof (record as { type?: unknown } | null | undefined)?.type !== "string") {
        throw this.refuse(`is no log of ${works[this.kind].one}: its line ${index + 1} cannot be read`);
      }
      records.push(record as { type: string });
    }
    return records;
  }

  #check(now: LogSettings): void {
    for (const name of Object.keys(now)) {
      const was = this.#started?.[name];
      if (was === now[name]) continue;
      throw this.refuse(
        `is the log of ${works[this.kind].another}: its ${name} is ${show(was)}, this one's ${show(now[name])}. ` +
          "Give the options that it was begun with, or another file",
      );
    }
  }
}

function show(value: unknown): string {
  return JSON.stringify(value) ?? "not given";
}
