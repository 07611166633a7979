import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import {
  chainOfThought,
  createRng,
  findCountries,
  formatCounts,
  generatePassage,
  KEYWORD_COUNTING_UNREADABLE,
  keywordCountingErrors,
  keywordCountingProblem,
  passageOf,
  readKeywordCountingCsv,
  splitSentences,
} from "./index.js";

describe("findCountries", () => {
  it.each([
    ["Norway, Norwegian and Norway's fjords", ["Norway", "Norway"]],
    ["from Nigeria to Niger", ["Nigeria", "Niger"]],
    [
      "Papua New Guinea, Equatorial Guinea, Guinea-Bissau and Guinea.",
      ["Papua New Guinea", "Equatorial Guinea", "Guinea-Bissau", "Guinea"],
    ],
    ["South Sudan and Sudan; Sudanese", ["South Sudan", "Sudan"]],
    ["Romanian woman in Oman", ["Oman"]],
    ["no name here", []],
  ])("%s", (text, names) => {
    expect(findCountries(text)).toEqual(names);
  });
});

describe("generatePassage", () => {
  it("makes passages of the paper's size, the same for the same seed, with traps in them", () => {
    let traps = 0;
    for (let seed = 0; seed < 100; seed++) {
      const passage = generatePassage(seed);
      expect(passage).toEqual(generatePassage(seed));
      expect(splitSentences(passage.text)).toHaveLength(16);
      const mentions = Object.values(passage.counts).reduce((sum, count) => sum + count, 0);
      expect(mentions).toBeGreaterThan(8);
      expect(Object.keys(passage.counts).length).toBeLessThanOrEqual(10);
      const substrings = Object.keys(passage.counts).reduce(
        (sum, name) => sum + passage.text.split(name).length - 1,
        0,
      );
      if (substrings > mentions) traps++;
    }
    expect(traps).toBeGreaterThan(5);
  });
});

describe("keywordCountingErrors", () => {
  it("sums the differences over all countries of either side", () => {
    expect(keywordCountingErrors({ A: 2, B: 1 }, { A: 3, C: 2 })).toBe(1 + 1 + 2);
    expect(keywordCountingErrors({ A: 2 }, { A: 2, B: 0 })).toBe(0);
    expect(keywordCountingErrors({ A: 2 }, undefined)).toBe(KEYWORD_COUNTING_UNREADABLE);
  });
});

describe.each(["direct", "chain-of-thought"] as const)("keywordCountingProblem, %s", (style) => {
  const passage = generatePassage(3);
  const problem = keywordCountingProblem(passage, { style });
  const answer = style === "direct" ? formatCounts(passage.counts) : chainOfThought(passage);

  it("is solved by the right object, whatever stands around it", () => {
    for (const text of [answer, `Output: ${formatCounts(passage.counts)}`, `{"no": "numbers"} ${answer} done`]) {
      expect(problem.isSolved(problem.readAnswer(text)), text).toBe(true);
    }
    for (const text of ["", "{}", "nothing", answer.replaceAll(/\d+\}/g, "99}")]) {
      expect(problem.isSolved(problem.readAnswer(text)), text).toBe(false);
    }
  });

  it("calls no beginning of the right answer hopeless or complete, wherever it is cut", () => {
    for (let end = 0; end < answer.length; end++) {
      const state = problem.readPartial(answer.slice(0, end), false);
      expect(problem.hopeless!(state), answer.slice(0, end)).toBe(false);
      expect(state.complete, answer.slice(0, end)).toBe(false);
    }
    expect(problem.readPartial(answer, false)).toEqual({ counts: passage.counts, complete: true });
  });

  it("calls an entry hopeless at its first wrong letter or digit, whatever the white space", () => {
    const [[name, count], [next]] = Object.entries(passage.counts) as [[string, number], [string, number]];
    const isHopeless = (text: string) => problem.hopeless!(problem.readPartial(`Output: {${text}`, false));
    const first = `${JSON.stringify(name)}: ${count}`;
    const right = [
      first.slice(0, 4),
      `  ${JSON.stringify(name)} :`,
      first,
      `${first},`,
      `${first}, "${next.slice(0, 3)}`,
    ];
    expect(right.filter(isHopeless)).toEqual([]);
    const wrong = [`${JSON.stringify(name)}: ${count + 1}`, `${first}0`, `${first}, "Xy`, `${first}, ${first}`, "Xy"];
    expect(wrong.filter((text) => !isHopeless(text))).toEqual([]);
  });
});

describe("readAnswer", () => {
  it("never throws on broken text", () => {
    const problem = keywordCountingProblem(passageOf("Norway."));
    const rng = createRng(1);
    const symbols = ["{", "}", '"', "Norway", ": ", "1", ",", "Output:", "[", "null"];
    for (let i = 0; i < 2000; i++) {
      const text = Array.from({ length: rng.int(0, 12) }, () => rng.pick(symbols)).join("");
      for (const state of [
        problem.readAnswer(text),
        problem.readPartial(text, false),
        problem.readPartial(text, true),
      ]) {
        expect(Number.isFinite(problem.score(state))).toBe(true);
      }
    }
  });
});

describe("readKeywordCountingCsv", () => {
  const file = new URL("../../../../shared/datasets/graph-of-thoughts/countries.csv", import.meta.url);
  it.skipIf(!existsSync(file))("reads Graph of Thoughts' own file, whose labels our counter mostly agrees with", () => {
    const rows = readKeywordCountingCsv(readFileSync(file, "utf8"));
    expect(rows).toHaveLength(100);
    const wrong = rows.map((row) => keywordCountingErrors(row.counts, passageOf(row.text).counts));
    expect(wrong.filter((errors) => errors <= 2).length).toBeGreaterThan(80);
  });

  it("names the bad row", () => {
    expect(() => readKeywordCountingCsv("ID,Text,Countries\n0,Peru.,[Peru]\n1,Peru.,Peru\n")).toThrow(/Row 2/);
  });
});
