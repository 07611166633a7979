import { describe, expect, it } from "vitest";
import { meanWidths } from "./charts.js";
import { htmlReport } from "./report.js";
import type { EvalSample } from "./sample.js";
import { summarize } from "./summary.js";

const sample = (more: Partial<EvalSample>): EvalSample => ({
  ...{ task: "sorting", size: 32, item: 1, seed: 1, method: "tot", budget: { tokens: 1000 } },
  ...{ errors: 0, solved: true, unreadable: false, answer: [1], stopReason: "finished", thoughts: 3 },
  ...{ generatedTokens: 100, promptTokens: 50, reusedTokens: 40, kvBytesRead: 1e6, kvBytesUnshared: 3e6 },
  ...{ elapsedMs: 500, widths: [{ steps: 2, tokens: 8 }] },
  ...more,
});

describe("summarize", () => {
  it("has a row for each method and budget of a group, each item with all its seeds as one", () => {
    const rows = summarize([
      sample({ item: 1, seed: 1 }),
      sample({ item: 1, seed: 2, solved: false, errors: 4 }),
      sample({ item: 2, errors: 300, solved: false, unreadable: true }),
      sample({ item: 1, method: "best-of-n", solved: false, errors: 6 }),
      sample({ size: 64 }),
      sample({ budget: { seconds: "matched" } }),
    ]);
    expect(rows.map(({ size, method, samples }) => [size, method, samples])).toEqual([
      [32, "tot", 3],
      [32, "best-of-n", 1],
      [64, "tot", 1],
      [32, "tot", 1],
    ]);
    expect(rows[0]).toMatchObject({ items: 2, unreadable: 1, generatedTokens: 100, seconds: 0.5, width: 4 });
    // Items have (1/2, 0) right and (2, 300) errors.
    expect(rows[0]!.accuracy).toMatchObject({ mean: 0.25, low: 0, high: 0.5 });
    expect(rows[0]!.errors.mean).toBe(151);
    // Only item 1 has both.
    expect(rows[0]!.againstBestOfN).toEqual({ mean: 0.5, low: 0.5, high: 0.5 });
    expect(rows[1]!.againstBestOfN).toBeUndefined();
    expect(rows[3]!.budget).toEqual({ seconds: "matched" });
  });
});

describe("meanWidths", () => {
  it("takes the mean of the searches that still run", () => {
    const short = [{ steps: 2, tokens: 8 }];
    const long = [
      { steps: 2, tokens: 4 },
      { steps: 2, tokens: 2 },
    ];
    expect(meanWidths([short, long])).toEqual([
      [1, 3],
      [2, 3],
      [3, 1],
      [4, 1],
    ]);
    expect(meanWidths([])).toEqual([]);
  });
});

describe("htmlReport", () => {
  const session = { model: "m<1>", device: "cpu", machine: "2 cores", date: "2026-01-02", command: "deftree eval x" };
  const samples = (["io", "best-of-n", "tot"] as const).flatMap((method) =>
    [1, 2, 3].flatMap((item) => [
      sample({ method, item, errors: item }),
      sample({ method, item, budget: { tokens: 200 }, unreadable: item === 1 }),
      sample({ method, item, budget: { seconds: "matched" } }),
    ]),
  );

  it("is one file that loads nothing and runs nothing", () => {
    const html = htmlReport({ samples, sessions: [session] });
    expect(html).not.toMatch(/<script|<link|@import|url\([^#]|<img/);
    const ids = [...html.matchAll(/ id="([^"]*)"/g)].map(([, id]) => id);
    expect(new Set(ids).size).toBe(ids.length);
    const addresses = [...html.matchAll(/https?:[^"']*/g)].map(([address]) => address);
    // Names of namespaces, not addresses to load.
    expect(new Set(addresses)).toEqual(new Set(["http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"]));
  });

  it("has each plot for wide and narrow screens, with a text for who does not see it, and says what was run", () => {
    const html = htmlReport({ samples, sessions: [session], unreadable: [{ item: 4, row: 4, error: "no <list>" }] });
    const titles = [...html.matchAll(/<h3>(.*?)<\/h3>/g)].map(([, title]) => title);
    expect(titles).toEqual([
      "Accuracy against generated tokens",
      "Accuracy in equal time",
      "Errors",
      "Width over steps",
      "KV read against unshared",
    ]);
    expect(html.match(/<svg [^>]*role="img" aria-label="[^"]{40,}/g)).toHaveLength(2 * titles.length);
    expect(html).not.toMatch(/NaN|undefined|Infinity/);
    for (const [, caption] of html.matchAll(/<figcaption>(.*?)<\/figcaption>/g)) {
      for (const said of ["m&lt;1&gt; on cpu", "3 problems, 1 seeds", "2026-01-02", "2 cores", "deftree eval x"]) {
        expect(caption).toContain(said);
      }
    }
    expect(html).toContain("row 4: no &lt;list&gt;");
  });

  it("can be made of nothing, or of methods without any answer", () => {
    expect(htmlReport({ samples: [], sessions: [] })).toContain("Nothing was run");
    const none = samples.map((one) => ({ ...one, unreadable: true, errors: 300, solved: false, widths: [] }));
    expect(htmlReport({ samples: none, sessions: [session] })).not.toContain("Width over steps");
  });
});
