/** `deftree run` with the embedded model. It knows no document merging: what it says of that is nonsense. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { devNull } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { formatEvent } from "@deftree/search";
import { methodNames, TASKS, type TaskName } from "@deftree/tasks";
import { describe, expect, it } from "vitest";
import { recordsOf, restoreExitCode, runCommand, temporaryFiles } from "../../test/command.js";
import { addRunCommand } from "./run.js";

const fileOf = temporaryFiles();
restoreExitCode();

const run = (args: string, signal?: AbortSignal) => runCommand(addRunCommand, `run ${args}`, signal);

const doneIn = (file: string) => recordsOf(file).filter(({ type }) => type === "item:done");

/** Of an outcome, what does not depend on how long it took or how often it was begun. */
const decided = ({ item, errors, answer }: { item: number; errors: number; answer: unknown }) => ({
  ...{ item, errors, answer },
});

describe.each(methodNames("sorting"))("run sorting --method %s", (method) => {
  it("prints one result line, and logs the same outcomes", async () => {
    const out = fileOf();
    const { result } = await run(`sorting --method ${method} --size 16 --items 2 --json --out ${out}`);
    expect(result).toMatchObject({ command: "run", task: "sorting", method, size: 16, items: 2, failed: [] });
    expect(doneIn(out).map(decided)).toEqual(result.problems.map(decided));
    for (const { input, answer, errors } of result.problems) {
      expect(errors).toBe(TASKS.sorting.errors(input, answer));
    }
  });
});

describe("run --paper", () => {
  it("takes an answer that it had to a prompt that comes again, and decodes it once", async () => {
    const args = "sorting --method tot2 --size 96 --items 3 --json";
    const [fresh, paper] = [await run(args), await run(`${args} --paper`)];
    const tokens = fresh.result.generatedTokens;
    expect(paper.result.generatedTokens).toBeLessThan(tokens);
    expect(paper.result).toMatchObject({ paper: "on", items: 3, failed: [] });
  });
});

describe("run sorting by hand", () => {
  it.each(["tot", "tot --grow reprompt", "best-of-n", "single"])("searches by %s", async (strategy) => {
    const { result } = await run(`sorting --strategy ${strategy} --width 4 --length 16 --items 2 --json`);
    expect(result).toMatchObject({ strategy: strategy.split(" ")[0], items: 2 });
    expect(result.meanErrors).toBeLessThan(16);
  });

  it("prints the levels, a line for each problem, and the sums", async () => {
    const { out, err } = await run("sorting --size 16 --items 1");
    expect(err).toContain("1 problems by tot");
    expect(out).toMatch(/^ {2}level 1: .*\n(?: {2}level .*\n)*problem 1: .* thoughts, .* tokens\n\d of 1 exact, .*\n$/);
  });
});

describe.each(Object.keys(TASKS) as TaskName[])("run %s", (name) => {
  it("refuses a method that the task does not have, and lists those that it has", async () => {
    await expect(run(`${name} --method best`)).rejects.toThrow(`Allowed choices are ${methodNames(name).join(", ")}`);
  });

  it("refuses a method together with a search by hand", async () => {
    await expect(run(`${name} --method io --strategy single`)).rejects.toThrow("cannot be used with");
  });

  if (name === "sorting") return;

  it("gives what the model says the errors that the task defines, readable or not", async () => {
    const out = fileOf();
    const { result } = await run(`${name} --method cot --items 2 --json --out ${out}`);
    expect(result).toMatchObject({ items: 2, failed: [] });
    for (const { input, answer, errors } of result.problems) {
      expect([TASKS[name].errors(input, answer), TASKS[name].errors(input, undefined)]).toContain(errors);
    }
    expect(result.solved).toBe(result.problems.filter(({ errors }: { errors: number }) => errors === 0).length);
    expect(doneIn(out)).toHaveLength(2);
  });

  it("searches by hand too", async () => {
    const { result } = await run(`${name} --items 1 --width 2 --keep 1 --json`);
    expect(result).toMatchObject({ strategy: "tot", items: 1, failed: [] });
  });
});

it("gives an answer that no program can read the task's failure score", async () => {
  const { result } = await run("document-merging --method io --items 1 --json");
  expect(result).toMatchObject({ meanErrors: 10, solved: 0, failed: [] });
});

describe("a run that goes on", () => {
  const command = (out: string, more = "--items 3") =>
    `sorting --method tot --size 16 --seed 5 --json --out ${out} ${more}`;

  it("skips what is done, and does what is new", async () => {
    const out = fileOf();
    const first = await run(command(out, "--items 2"));
    const before = readFileSync(out, "utf8");
    const again = await run(command(out, "--items 2"));
    expect(readFileSync(out, "utf8")).toBe(before);
    expect(again.result).toEqual(first.result);
    const { result, err } = await run(command(out));
    expect(err).toContain("2 of them done already");
    expect(readFileSync(out, "utf8").startsWith(before)).toBe(true);
    expect(doneIn(out)).toHaveLength(3);
    expect(result.problems.map(decided)).toEqual(doneIn(out).map(decided));
  });

  it("comes to the same answers wherever it was cut off, and decodes again only what was not finished", async () => {
    const whole = fileOf();
    const { result } = await run(command(whole));
    const text = readFileSync(whole, "utf8");
    const header = text.indexOf("\n") + 1;
    for (let part = 0; part < 8; part++) {
      const cut = fileOf(text.slice(0, header + Math.floor((part * (text.length - header)) / 7.3)));
      const kept = readFileSync(cut, "utf8");
      const resumed = await run(command(cut));
      expect(resumed.result.problems).toEqual(result.problems);
      expect(readFileSync(cut, "utf8").startsWith(kept.slice(0, kept.lastIndexOf("\n") + 1))).toBe(true);
      const searches = recordsOf(cut).filter(({ type }) => type === "search:started").length;
      expect(searches).toBeLessThanOrEqual(4);
    }
  });

  it("uses the longest attempt at an item, and takes its thoughts from there", async () => {
    const whole = fileOf();
    const { result } = await run(command(whole, "--items 1"));
    const lines = readFileSync(whole, "utf8").trimEnd().split("\n");
    const at = lines.findLastIndex((line) => line.startsWith('{"type":"thought:finished"'));
    // As text that the model would not say, so that it shows where the answer comes from.
    const marked = lines.slice(0, at).map((line) => {
      const event = JSON.parse(line);
      return event.type === "thought:finished" ? formatEvent({ ...event, text: "[7]" }).trimEnd() : line;
    });
    const log = fileOf([...marked, ...lines.slice(1, 5), ""].join("\n"));
    await run(command(log, "--items 1"));
    const resumed = recordsOf(log).slice(marked.length + 4);
    expect(resumed[0]).toEqual(JSON.parse(lines[1]!));
    const texts = resumed.filter(({ type }) => type === "thought:finished").map((event) => event.text);
    expect(texts.filter((said) => said === "[7]")).toHaveLength(marked.filter((line) => line.includes("[7]")).length);
    expect(result.items).toBe(1);
  });

  it("keeps what was done when it is stopped, and goes on from there", async () => {
    const out = fileOf();
    const controller = new AbortController();
    const watch = setInterval(() => {
      if (readFileSync(out, "utf8").includes('"item":2')) controller.abort();
    }, 1);
    const args = command(out, "--items 12");
    const { result, err } = await run(args, controller.signal).finally(() => clearInterval(watch));
    expect(err).toContain(`the same command goes on from ${out}`);
    expect(result.items).toBe(doneIn(out).length);
    expect(result.items).toBeLessThan(12);
    const resumed = await run(args);
    expect(resumed.result.items).toBe(12);
    expect(resumed.result.problems.slice(0, result.items)).toEqual(result.problems);
    expect(resumed.result.problems).toEqual((await run(command(fileOf(), "--items 12"))).result.problems);
  });

  it("refuses the log of another run, says what differs, and leaves it as it was", async () => {
    const out = fileOf();
    await run(`sorting --method io --size 16 --items 1 --out ${out}`);
    const before = readFileSync(out, "utf8");
    const others = {
      task: "set-intersection --method io --size 16",
      method: "sorting --method cot --size 16",
      seed: "sorting --method io --size 16 --seed 2",
      size: "sorting --method io --size 8",
      grow: "sorting --method io --size 16 --grow continue",
    };
    for (const [name, args] of Object.entries(others)) {
      await expect(run(`${args} --items 1 --out ${out}`)).rejects.toThrow(`the log of another run: its ${name} is`);
    }
    writeFileSync(out, before.replace('"model":"mini"', '"model":"maxi"'));
    await expect(run(`sorting --method io --size 16 --out ${out}`)).rejects.toThrow('its model is "maxi"');
  });

  it("refuses a file that is no log, and does not touch it", async () => {
    for (const text of ["my notes", "my\nnotes\n", '{"type":"done"}\n{"a":', "[1]\n"]) {
      const out = fileOf(text);
      await expect(run(command(out))).rejects.toThrow("is no log of a run");
      expect(readFileSync(out, "utf8")).toBe(text);
    }
    await expect(run(command(join(fileOf(), "nowhere", "run.jsonl")))).rejects.toThrow("cannot be written");
    await expect(run(command(devNull))).rejects.toThrow("is no plain file");
  });
});

describe("run --data", () => {
  const csv = 'ID,Unsorted,Sorted\n0,"[3, 1, 2]","[1, 2, 3]"\n1,"[3, x]","[]"\n2,"[2, 0]","[0, 2]"\n';
  const jsonl = '{"ID":0,"Unsorted":[3,1,2],"Sorted":[1,2,3]}\n{"ID":1,\n{"ID":2,"Unsorted":[2,0],"Sorted":[0,2]}\n';

  it.each([
    ["csv", csv],
    ["jsonl", jsonl],
  ])("solves the rows of a %s file and tells which it could not read", async (ending, text) => {
    const out = fileOf();
    const data = fileOf(text, ending);
    const { result, err } = await run(`sorting --method io --data ${data} --json --out ${out}`);
    expect(result.problems.map(({ item, input }: never) => [item, input])).toEqual([
      [1, [3, 1, 2]],
      [3, [2, 0]],
    ]);
    expect(result.unreadable).toMatchObject([{ item: 2, row: 2 }]);
    expect(err).toContain("row 2 is left out");
    const before = readFileSync(out, "utf8");
    expect(before).toContain('"type":"item:unreadable","item":2,"row":2');
    await run(`sorting --method io --data ${data} --json --out ${out}`);
    expect(readFileSync(out, "utf8")).toBe(before);
  });

  it("refuses a log that was begun with other data", async () => {
    const out = fileOf();
    await run(`sorting --method io --data ${fileOf(csv, "csv")} --out ${out}`);
    const other = fileOf(csv.replaceAll("2, 0", "5, 0").replaceAll("0, 2", "0, 5"), "csv");
    await expect(run(`sorting --method io --data ${other} --out ${out}`)).rejects.toThrow("another problem as item 3");
  });

  it("refuses a file without a row that it can read, and names the columns", async () => {
    const data = fileOf("a,b\n1,2\n", "csv");
    await expect(run(`sorting --data ${data}`)).rejects.toThrow("ID, Unsorted, Sorted");
    await expect(run(`sorting --data ${fileOf(undefined, "csv")}`)).rejects.toThrow("cannot be read");
  });
});

it("goes on with the other problems where one does not fit into the model", async () => {
  const long = `[${Array(5000).fill(7).join(", ")}]`;
  const data = fileOf(`ID,Unsorted,Sorted\n0,"${long}","${long}"\n1,"[2, 0]","[0, 2]"\n`, "csv");
  const out = fileOf();
  const { result } = await run(`sorting --method io --data ${data} --json --out ${out}`);
  expect(result.failed).toMatchObject([{ item: 1 }]);
  expect(result.problems).toMatchObject([{ item: 2 }]);
  expect(recordsOf(out).filter(({ type }) => type === "item:failed")).toHaveLength(1);
  expect(process.exitCode).toBe(1);
});

it("ends with status 130 on Ctrl-C, its file whole", async () => {
  const main = fileURLToPath(new URL("../main.ts", import.meta.url));
  const out = fileOf("");
  const args = `run sorting --method tot2 --size 64 --items 1000 --json --out ${out}`.split(" ");
  const child = spawn(process.execPath, ["--import", "tsx", "--conditions", "@deftree/source", main, ...args]);
  const watch = setInterval(() => {
    if (readFileSync(out, "utf8").includes('"item":3')) child.kill("SIGINT");
  }, 5);
  const [status] = await once(child, "close").finally(() => clearInterval(watch));
  expect(status).toBe(130);
  expect(readFileSync(out, "utf8").endsWith("\n")).toBe(true);
  expect(doneIn(out).length).toBeGreaterThanOrEqual(2);
});
