/** `deftree eval` with the embedded model, on lists that it half knows. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it, vi } from "vitest";
import { recordsOf, restoreExitCode, runCommand, temporaryFiles } from "../../test/command.js";
import { addEvalCommand } from "./eval.js";

const fileOf = temporaryFiles();
restoreExitCode();

const evalCommand = (args: string, signal?: AbortSignal, onProgress?: (text: string) => void) =>
  runCommand(addEvalCommand, `eval ${args}`, signal, onProgress);

const samplesIn = (file: string) => recordsOf(file).filter(({ type }) => type === "sample");

const small =
  "sorting --size 16 --items 2 --seeds 2 --tokens 40,160 --seconds 0 --methods io,best-of-n,tot:continue --json";

describe("deftree eval", () => {
  it("runs every method with every budget and seed, within its budget, and reports", async () => {
    const [out, html] = [fileOf(), fileOf(undefined, "html")];
    const { result, err } = await evalCommand(`${small} --out ${out} --html ${html}`);
    expect(err).toContain("24 searches");
    const samples = samplesIn(out);
    expect(samples).toHaveLength(2 * 2 * 2 * 3);
    for (const { generatedTokens, budget, elapsedMs } of samples) {
      expect(generatedTokens).toBeLessThanOrEqual(budget.tokens);
      expect(elapsedMs).toBeGreaterThan(0);
    }
    expect(result.rows).toHaveLength(6);
    for (const row of result.rows) expect(row).toMatchObject({ items: 2, samples: 4, task: "sorting", size: 16 });
    expect(result.rows.every((row: { width: number }) => row.width > 0)).toBe(true);
    expect(readFileSync(html, "utf8")).toContain("deftree");
  });

  it("goes on where it was cut off, with the same samples", async () => {
    const [whole, cut] = [fileOf(), fileOf()];
    // A tree that cuts thoughts counts what it decoded before the cut was seen, which no seed decides.
    const args = small.replace(",tot:continue", "");
    await evalCommand(`${args} --out ${whole}`);
    const lines = readFileSync(whole, "utf8").split("\n");
    // In the middle of a line, as a crash may leave it.
    writeFileSync(cut, `${lines.slice(0, 9).join("\n")}\n${lines[9]!.slice(0, 40)}`);
    const { err } = await evalCommand(`${args} --out ${cut}`);
    expect(err).toContain("16 searches, 6 of them in the log");
    const decided = (file: string) =>
      samplesIn(file).map(({ item, seed, method, budget, answer, errors }) => ({
        item,
        seed,
        method,
        budget,
        answer,
        errors,
      }));
    expect(decided(cut)).toEqual(decided(whole));
  });

  it("shows what there is when it is stopped, and from the log alone", async () => {
    const [out, html] = [fileOf(), fileOf(undefined, "html")];
    const stop = new AbortController();
    await evalCommand(`${small} --items 1 --out ${out}`);
    const { result, err } = await evalCommand(
      `${small} --items 500 --out ${out} --html ${html}`,
      stop.signal,
      (text) => {
        if (text.includes("searches")) stop.abort();
      },
    );
    expect(err).toContain(`goes on from ${out}`);
    expect(result.rows).toHaveLength(6);
    expect(existsSync(html)).toBe(true);
    const before = readFileSync(out, "utf8");
    const shown = await evalCommand(`${small} --report --out ${out}`);
    expect(shown.result.rows).toEqual(result.rows);
    expect(readFileSync(out, "utf8")).toBe(before);
  });

  it("matches time to what self-consistency took", async () => {
    const out = fileOf();
    const args = "sorting --size 16 --items 1 --seeds 1 --tokens 100 --methods self-consistency,tot";
    const { out: text } = await evalCommand(`${args} --out ${out}`);
    expect(text).toContain("sorting 16, equal time");
    expect(samplesIn(out).map(({ budget }) => budget)).toEqual([
      { tokens: 100 },
      { tokens: 100 },
      { seconds: "matched" },
      { seconds: "matched" },
    ]);
  });

  it("refuses the log of another model and of other settings, and leaves it as it was", async () => {
    const out = fileOf();
    await evalCommand(`${small} --items 1 --seeds 1 --out ${out}`);
    const text = readFileSync(out, "utf8").replaceAll('"model":"mini"', '"model":"other"');
    const other = fileOf(text);
    await expect(evalCommand(`${small} --out ${other}`)).rejects.toThrow('its model is "other", this one\'s "mini"');
    expect(readFileSync(other, "utf8")).toBe(text);
    await expect(evalCommand(`${small} --width 3 --out ${out}`)).rejects.toThrow("its width is 8, this one's 3");
    await expect(evalCommand(`${small} --out ${fileOf("no log\n")}`)).rejects.toThrow("is no log of an evaluation");
  });

  it("leaves out rows that cannot be read, once in the log, and goes on", async () => {
    const data = fileOf(
      '{"ID": 1, "Unsorted": [2, 1], "Sorted": [1, 2]}\nnonsense\n{"ID": 3, "Unsorted": [], "Sorted": []}\n',
    );
    const out = fileOf();
    const args = `sorting --data ${data} --seeds 1 --tokens 20 --seconds 0 --methods io --json --out ${out}`;
    const first = await evalCommand(args);
    const { result } = await evalCommand(args);
    expect(result.rows).toEqual(first.result.rows);
    expect(result.rows[0]).toMatchObject({ items: 1 });
    expect(result.unreadable).toMatchObject([{ row: 2 }, { row: 3 }]);
    expect(recordsOf(out).filter(({ type }) => type === "unreadable")).toHaveLength(2);
    writeFileSync(data, '{"ID": 1, "Unsorted": [3, 1], "Sorted": [1, 3]}\n');
    await expect(evalCommand(args)).rejects.toThrow("another problem as item 1");
  });

  it.each([
    ["sorting --methods best", "best is none of io, cot"],
    ["few-shot --methods got", "few-shot has none of the methods; it has io, cot"],
    ["sorting --tokens 0", "at least 1"],
    ["sorting --report", "name it with --out"],
    ["sorting few-shot --data x.csv", "--data holds the problems of one task"],
    ["sorting --data absent.csv", "cannot be read"],
    ["nothing", "Allowed choices are"],
  ])("refuses %s", async (args, message) => {
    const err = vi.spyOn(process.stderr, "write").mockReturnValue(true);
    await expect(evalCommand(args)).rejects.toThrow(message);
    err.mockRestore();
  });
});
