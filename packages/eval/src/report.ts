/** The HTML report: one file, no script, nothing loaded; each plot drawn for a wide and for a narrow screen. */
import { htmlEscape } from "escape-goat";
import { type Chart, chartSvg } from "./chart-svg.js";
import { accuracyAtEqualTime, accuracyOverTokens, errorBoxes, kvBytes, widthOverSteps } from "./charts.js";
import type { EvalSession } from "./eval-log.js";
import { budgetName, type EvalSample, groupName, type UnreadableItem } from "./sample.js";
import { type EvalRow, groupBy, summarize } from "./summary.js";

export interface ReportOptions {
  samples: readonly EvalSample[];
  /** The pieces of work that made the samples, the first first. */
  sessions: readonly EvalSession[];
  unreadable?: readonly UnreadableItem[];
}

/** Pixels of the plots by screen; CSS shows one of them. */
const widths = { wide: 720, narrow: 344 };

interface Figure {
  title: string;
  chart(width: number): Chart;
  /** What is to be seen, beside what was run. */
  caption: string;
}

export function htmlReport({ samples, sessions, unreadable = [] }: ReportOptions): string {
  const groups = [...groupBy(samples, groupName)].map(([name, group]) => groupSection(name, group, sessions));
  const leftOut = unreadable.map(({ item, row, error }) => `<li>row ${row ?? item}: ${htmlEscape(error)}</li>`);
  const body = [
    "<h1>Search methods at equal tokens and in equal time</h1>",
    `<p>${sessionTexts(sessions).map(htmlEscape).join("<br>")}</p>`,
    samples.length === 0 ? "<p>Nothing was run to its end.</p>" : "",
    leftOut.length === 0 ? "" : `<p>Rows that cannot be read are left out:</p><ul>${leftOut.join("")}</ul>`,
    ...groups,
    `<footer><p>${notes.map(htmlEscape).join("</p><p>")}</p></footer>`,
  ];
  return page(body.join("\n"));
}

const notes = [
  "Intervals hold 95% of 2,000 bootstrap means over the problems; all seeds of a problem are drawn together.",
  "A method ends early at a right answer, except self-consistency, to which nobody tells that an answer is right. A tree or " +
    "graph that ends without one begins anew while its budget lasts; io and cot are one answer.",
  "The prompt of a problem is computed once, by the first search on it, and found in the cache by the others.",
  "Equal tokens: each method may generate as many tokens for a problem. Equal time: each may take as long as " +
    "self-consistency took for the largest budget of tokens, on the same problem with the same seed.",
];

function groupSection(name: string, samples: readonly EvalSample[], sessions: readonly EvalSession[]): string {
  const rows = summarize(samples);
  const run = whatWasRun(name, samples, sessions);
  const figures = figuresOf(rows, samples);
  return [
    `<section><h2>${htmlEscape(name)}</h2>`,
    ...figures.map((figure) => figureHtml(name, figure, run)),
    table(rows),
    "</section>",
  ].join("\n");
}

function figuresOf(rows: readonly EvalRow[], samples: readonly EvalSample[]): Figure[] {
  const byTokens = rows.filter(({ budget }) => "tokens" in budget);
  const byTime = rows.filter(({ budget }) => "seconds" in budget);
  const most = Math.max(...byTokens.map(({ budget }) => ("tokens" in budget ? budget.tokens : 0)));
  const hasMost = ({ budget }: Pick<EvalRow, "budget">) => "tokens" in budget && budget.tokens === most;
  const atMost = samples.filter(hasMost);
  const figures: Figure[] = [];
  if (byTokens.length > 0) {
    figures.push({
      title: "Accuracy against generated tokens",
      chart: (width) => accuracyOverTokens(byTokens, width),
      caption: "One point for each budget of tokens, at what the method used of it on average; bars are 95% intervals.",
    });
  }
  for (const [name, group] of groupBy(byTime, ({ budget }) => budgetName(budget))) {
    figures.push({
      title: name === "equal time" ? "Accuracy in equal time" : `Accuracy in ${name}`,
      chart: () => accuracyAtEqualTime(group),
      caption: "Bars are 95% intervals.",
    });
  }
  if (atMost.length === 0) return figures;
  const budget = `with ${count(most)} tokens`;
  figures.push({
    title: "Errors",
    chart: () => errorBoxes(atMost, "errors of an answer"),
    caption: `Single answers ${budget}. Box: the middle half and the median; whiskers: up to 1.5 times its length; points: answers beyond. Searches without an answer that can be read are counted below the name (none), not drawn.`,
  });
  if (atMost.some(({ widths }) => widths.length > 0)) {
    figures.push({
      title: "Width over steps",
      chart: (width) => widthOverSteps(atMost, width),
      caption: `Branches that decode in one engine step ${budget}: the mean of the searches that still run.`,
    });
  }
  if (atMost.some(({ kvBytesUnshared }) => kvBytesUnshared > 0)) {
    figures.push({
      title: "KV read against unshared",
      chart: () => kvBytes(rows.filter(hasMost)),
      caption: `KV bytes that attention read for a problem ${budget}, beside what reading each branch by itself would have cost.`,
    });
  }
  return figures;
}

function figureHtml(group: string, { title, chart, caption }: Figure, run: string): string {
  const alt = `${title}, ${group}. ${caption} The table below holds the figures.`;
  return [
    `<figure><h3>${htmlEscape(title)}</h3>`,
    ...Object.entries(widths).map(
      ([name, width]) => `<div class="${name}">${chartSvg(chart(width), width, alt)}</div>`,
    ),
    `<figcaption>${htmlEscape(`${caption} ${run}`)}</figcaption></figure>`,
  ].join("\n");
}

/** Model, problems, seeds, date, machine, command. */
function whatWasRun(name: string, samples: readonly EvalSample[], sessions: readonly EvalSession[]): string {
  const items = new Set(samples.map(({ item }) => item)).size;
  const seeds = new Set(samples.map(({ seed }) => seed)).size;
  return `${name}: ${items} problems, ${seeds} seeds. ${sessionTexts(sessions).join(" ")}`;
}

/** An evaluation that went on by the same command on the same day says so once. */
function sessionTexts(sessions: readonly EvalSession[]): string[] {
  const texts = sessions.map(
    ({ model, device, machine, date, command }) => `Model ${model} on ${device}; ${machine}; ${date}; ${command}.`,
  );
  return [...new Set(texts)];
}

function table(rows: readonly EvalRow[]): string {
  const head = ["method", "budget", "right", "against best-of-n", "errors", "no answer", "tokens", "seconds", "width"];
  const cells = rows.map((row) => [
    row.method,
    budgetName(row.budget),
    percent(row.accuracy),
    row.againstBestOfN ? percent(row.againstBestOfN) : "",
    `${row.errors.mean.toFixed(2)} (${row.errors.low.toFixed(2)} to ${row.errors.high.toFixed(2)})`,
    `${row.unreadable} of ${row.samples}`,
    count(row.generatedTokens),
    row.seconds.toFixed(2),
    row.width?.toFixed(1) ?? "",
  ]);
  const line = (tag: string, line: readonly string[]) =>
    `<tr>${line.map((cell) => `<${tag}>${htmlEscape(cell)}</${tag}>`).join("")}</tr>`;
  return `<div class="table"><table><thead>${line("th", head)}</thead><tbody>${cells.map((cell) => line("td", cell)).join("")}</tbody></table></div>`;
}

function percent({ mean, low, high }: { mean: number; low: number; high: number }): string {
  const whole = (value: number) => (100 * value).toFixed(0);
  return `${whole(mean)}% (${whole(low)} to ${whole(high)})`;
}

function count(value: number): string {
  return Math.round(value).toLocaleString("en-US");
}

function page(body: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>deftree eval</title>
<style>
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 46rem; margin: 0 auto; padding: 1rem 0.5rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { margin: 2.5rem 0 0; } h3 { margin: 0 0 0.5rem; font-size: 1.1rem; }
figure { margin: 1.5rem 0 2rem; } figcaption, footer { font-size: 0.85rem; color: #444; margin-top: 0.5rem; }
svg { display: block; max-width: 100%; height: auto; } .narrow { display: none; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.85rem; white-space: nowrap; }
th, td { padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; } th:first-child, td:first-child { text-align: left; }
@media (max-width: 46rem) { .wide { display: none; } .narrow { display: block; } }
</style>
</head>
<body>
${body}
</body>
</html>
`;
}
