import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { CLAUSES } from "./clauses.js";
import {
  createRng,
  documentMergingProblem,
  generateDocumentSet,
  judgePrompt,
  markMerge,
  mergeScore,
  readDocumentMergingCsv,
  readJudgement,
} from "./index.js";

describe("CLAUSES", () => {
  it("hold their own key once in every wording, and no other clause's", () => {
    for (const { key, wordings } of CLAUSES) {
      expect(wordings.length).toBeGreaterThan(1);
      for (const wording of wordings) {
        const found = CLAUSES.filter((other) => wording.toLowerCase().includes(other.key)).map((other) => other.key);
        expect(found, wording).toEqual([key]);
        expect(wording.toLowerCase().split(key)).toHaveLength(2);
      }
    }
  });
});

describe("generateDocumentSet", () => {
  it("puts every clause into some document, and some into several", () => {
    for (let seed = 0; seed < 100; seed++) {
      const { documents, facts } = generateDocumentSet(seed);
      expect(documents).toHaveLength(4);
      const counts = facts.map((fact) => documents.filter((document) => document.toLowerCase().includes(fact)).length);
      expect(Math.min(...counts)).toBeGreaterThan(0);
      expect(counts.reduce((sum, count) => sum + count)).toBe(40);
    }
    expect(generateDocumentSet(4)).toEqual(generateDocumentSet(4));
  });

  it("refuses sizes that cannot be", () => {
    expect(() => generateDocumentSet(1, { documents: 2, clausesPerDocument: 3, clauses: 10 })).toThrow(RangeError);
  });
});

describe("markMerge", () => {
  const { facts } = generateDocumentSet(1);
  const text = (keys: readonly string[]) =>
    keys.map((key) => CLAUSES.find((c) => c.key === key)!.wordings[0]).join(" ");

  it("knows what is kept and what is said twice", () => {
    expect(markMerge(facts, text(facts))).toEqual({ retained: 10, redundancy: 10 });
    expect(markMerge(facts, text([...facts, ...facts]))).toEqual({ retained: 10, redundancy: 5 });
    expect(markMerge(facts, text(facts.slice(0, 9)))).toEqual({ retained: 5, redundancy: 10 });
    expect(markMerge(facts, "nothing")).toEqual({ retained: 0, redundancy: 0 });
  });

  it("scores by the harmonic mean, and nothing by 0", () => {
    expect(mergeScore({ retained: 5, redundancy: 10 })).toBeCloseTo(20 / 3);
    expect(mergeScore({ retained: 0, redundancy: 0 })).toBe(0);
  });
});

describe("documentMergingProblem", () => {
  const set = generateDocumentSet(2);
  const problem = documentMergingProblem(set);
  const clauses = set.facts.map((fact) => CLAUSES.find(({ key }) => key === fact)!);
  const right = `Sure.\n<Merged>\n${clauses.map((clause) => clause.wordings[1]).join("\n")}\n</Merged>`;

  it("is solved by a merge that keeps all once", () => {
    expect(problem.isSolved(problem.readAnswer(right))).toBe(true);
    expect(problem.isSolved(problem.readAnswer(right.replace(clauses[3]!.wordings[1]!, "")))).toBe(false);
    expect(
      problem.isSolved(problem.readAnswer(right.replace("</Merged>", `${clauses[3]!.wordings[0]}</Merged>`))),
    ).toBe(false);
  });

  it("scores an answer without the tag worst", () => {
    expect(problem.score(problem.readAnswer("I merged them."))).toBe(-10);
  });

  it("calls no beginning of a right answer hopeless", () => {
    for (let end = 0; end < right.length; end++) {
      expect(problem.hopeless!(problem.readPartial(right.slice(0, end), false))).toBe(false);
    }
  });
});

describe("readJudgement", () => {
  it("takes the last number of the last tag of each kind", () => {
    const text = "<Redundancy>3</Redundancy> no: <Redundancy>7 or 8</Redundancy>\n<Retained>9.5</Retained>";
    expect(readJudgement(text)).toEqual({ redundancy: 8, retained: 9.5 });
  });
  it.each(["", "<Redundancy>8</Redundancy>", "<Redundancy>8</Redundancy><Retained>11</Retained>"])("%s", (text) => {
    expect(readJudgement(text)).toBeUndefined();
  });
  it("never throws", () => {
    const rng = createRng(3);
    for (let i = 0; i < 500; i++) {
      const parts = Array.from({ length: 6 }, () =>
        rng.pick(["<Retained>", "</Retained>", "<Redundancy>", "</Redundancy>", "4", "x"]),
      );
      expect(() => readJudgement(parts.join(""))).not.toThrow();
    }
  });
  it("is asked for with the documents and the merge", () => {
    const [message] = judgePrompt(generateDocumentSet(1), "MERGED TEXT");
    expect(message!.content).toMatch(/<Doc4>[\s\S]*MERGED TEXT/);
  });
});

describe("readDocumentMergingCsv", () => {
  const file = new URL("../../../../shared/datasets/graph-of-thoughts/documents.csv", import.meta.url);
  it.skipIf(!existsSync(file))("reads Graph of Thoughts' own file", () => {
    const rows = readDocumentMergingCsv(readFileSync(file, "utf8"));
    expect(rows.length).toBeGreaterThanOrEqual(50);
    expect(rows.every(({ documents, facts }) => documents.length === 4 && facts.length > 4)).toBe(true);
  });
  it("names the bad row", () => {
    expect(() => readDocumentMergingCsv("id,document1,document2\n0,a b c.,d e f.\n1,only one,\n")).toThrow(/Row 2/);
  });
});
