import Table from "cli-table3";
import pc from "picocolors";

/**
 * Where a command's words go: tables and results to stdout, progress to stderr. With `--json` stdout carries nothing but
 * the final JSON line, so a pipe can read it.
 */
export class Output {
  constructor(readonly json: boolean) {}

  /** A line of the result, left out with `--json`. */
  line(text = ""): void {
    if (!this.json) process.stdout.write(`${text}\n`);
  }

  /** A line about what is going on. */
  progress(text: string): void {
    process.stderr.write(`${this.json ? text : pc.dim(text)}\n`);
  }

  table(head: readonly string[], rows: readonly (readonly string[])[]): void {
    if (this.json) return;
    const table = new Table({
      head: head.map((cell) => pc.bold(cell)),
      style: { head: [], border: [] },
      colAligns: head.map((_, i) => (i === 0 ? "left" : "right")),
    });
    for (const row of rows) table.push([...row]);
    process.stdout.write(`${table.toString()}\n`);
  }

  /** The result as data: one line, last. */
  result(value: unknown): void {
    if (this.json) process.stdout.write(`${JSON.stringify(value)}\n`);
  }

  /** What a benchmark measured: one line, last, under the tables too. */
  record(value: unknown): void {
    process.stdout.write(`${JSON.stringify(value)}\n`);
  }

  get isTerminal(): boolean {
    return !this.json && process.stdout.isTTY === true;
  }
}

const byteUnits = ["B", "kB", "MB", "GB", "TB"];

/** 1_300_000 -> "1.3 MB" (powers of 1000). */
export function formatBytes(bytes: number): string {
  const power = bytes < 1 ? 0 : Math.min(byteUnits.length - 1, Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** power;
  return `${value.toFixed(power === 0 || value >= 100 ? 0 : 1)} ${byteUnits[power]}`;
}

export function formatCount(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

export function formatMs(ms: number): string {
  return ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms.toFixed(ms < 10 ? 2 : 1)} ms`;
}
