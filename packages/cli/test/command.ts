/** For tests of a command in this process: files of its own, and what it prints. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Command } from "commander";
import { afterAll, afterEach, beforeAll, vi } from "vitest";

/** Gives paths of new files, in a folder that goes with the test file's last test; with `text`, the file is written. */
export function temporaryFiles(): (text?: string, ending?: string) => string {
  let folder: string;
  let files = 0;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "deftree-command-"));
  });
  afterAll(() => rmSync(folder, { recursive: true }));
  return (text, ending = "jsonl") => {
    const file = join(folder, `${++files}.${ending}`);
    if (text !== undefined) writeFileSync(file, text);
    return file;
  };
}

/** What a command printed, and its result where it was told `--json`. */
export interface Printed {
  out: string;
  err: string;
  // biome-ignore lint/suspicious/noExplicitAny: parsed JSON of whatever the command prints
  result: any;
}

/** Runs the command that `add` adds, with its name first in `args`. `onProgress` hears what goes to stderr. */
export async function runCommand(
  add: (program: Command) => void,
  args: string,
  signal = new AbortController().signal,
  onProgress: (text: string) => void = () => {},
): Promise<Printed> {
  const printed = { out: "", err: "" };
  const out = vi.spyOn(process.stdout, "write").mockImplementation((text) => {
    printed.out += text;
    return true;
  });
  const err = vi.spyOn(process.stderr, "write").mockImplementation((text) => {
    printed.err += text;
    onProgress(String(text));
    return true;
  });
  const program = new Command("deftree").exitOverride();
  add(program);
  for (const command of program.commands) {
    command.exitOverride();
    for (const inner of command.commands) inner.exitOverride();
  }
  program.hook("preAction", (_, action) => void action.setOptionValue("signal", signal));
  try {
    await program.parseAsync(args.split(" "), { from: "user" });
  } finally {
    out.mockRestore();
    err.mockRestore();
  }
  return { ...printed, result: args.includes("--json") && printed.out ? JSON.parse(printed.out) : undefined };
}

/** A command sets the exit code of its process; the tests' own is left as it was. */
export function restoreExitCode(): void {
  afterEach(() => {
    process.exitCode = undefined;
  });
}

/** The lines of a log. */
// biome-ignore lint/suspicious/noExplicitAny: parsed JSON of whatever the log holds
export function recordsOf(file: string): any[] {
  return readFileSync(file, "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
}
