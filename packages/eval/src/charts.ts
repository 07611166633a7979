/** The report's plots, as ECharts options. Each says what its axes are and in which unit. */
import { quantile } from "./bootstrap.js";
import type { Chart } from "./chart-svg.js";
import type { EvalMethod } from "./methods.js";
import type { EvalSample } from "./sample.js";
import { type EvalRow, groupBy } from "./summary.js";
import type { StepRun } from "./width-meter.js";

/** Okabe and Ito's colours, told apart by the colour-blind too, then darker ones; with a shape of its own for each method. */
const looks: Record<EvalMethod, { color: string; symbol: string }> = {
  io: { color: "#595959", symbol: "circle" },
  cot: { color: "#56b4e9", symbol: "rect" },
  "best-of-n": { color: "#e69f00", symbol: "triangle" },
  "self-consistency": { color: "#cc79a7", symbol: "diamond" },
  "tot:continue": { color: "#0072b2", symbol: "circle" },
  tot: { color: "#009e73", symbol: "rect" },
  tot2: { color: "#d55e00", symbol: "triangle" },
  got: { color: "#7b3294", symbol: "diamond" },
  got2: { color: "#8c6d1f", symbol: "roundRect" },
  got8: { color: "#a50026", symbol: "roundRect" },
  gotx: { color: "#1b5e20", symbol: "pin" },
};

const ink = "#222222";
const plotHeight = 330;
/** Room for the longest method name. */
const namesWidth = 124;

/** Share of right answers over the tokens that were generated; a line for each method, its budgets from left to right. */
export function accuracyOverTokens(rows: readonly EvalRow[], width: number): Chart {
  const methods = groupBy(rows, ({ method }) => method);
  const { height: top, legend } = legendOf(methods, width);
  const tokens = rows.map(({ generatedTokens }) => generatedTokens);
  const [min, max] = [roundedDown(Math.min(...tokens)), -roundedDown(-Math.max(...tokens))];
  return {
    height: plotHeight + top,
    option: {
      legend,
      grid: grid(top),
      xAxis: { ...axis("generated tokens a problem (log scale)"), type: "log", min, max },
      yAxis: { ...axis("right answers, %"), nameGap: 38, type: "value", min: 0, max: 100 },
      series: [...methods].flatMap(([method, points]) => {
        const look = lookOf(method);
        const data = points.map((row) => [row.generatedTokens, ...percentages(row)]);
        return [
          {
            ...{ name: method, type: "line" as const, symbolSize: 9, symbol: look.symbol, data },
            itemStyle: { color: look.color },
            lineStyle: { color: look.color, width: 2 },
          },
          intervalSeries(method, look.color, data, 0),
        ];
      }),
    },
  };
}

/** Share of right answers in the same time. */
export function accuracyAtEqualTime(rows: readonly EvalRow[]): Chart {
  const names = rows.map(({ method }) => method);
  return {
    height: 90 + 34 * rows.length,
    option: {
      grid: rowsGrid(),
      xAxis: { ...axis("right answers, %"), type: "value", min: 0, max: 100 },
      yAxis: categories(names),
      series: rows.flatMap((row, index) => {
        const { color, symbol } = lookOf(row.method);
        const data = [[...percentages(row), index]];
        return [
          {
            ...{ name: row.method, type: "scatter" as const, symbol, symbolSize: 11, itemStyle: { color } },
            data: data.map(([mean]) => [mean, index]),
          },
          intervalSeries(row.method, color, data, 1),
        ];
      }),
    },
  };
}

/** Errors of single answers: the box holds the middle half, its line is the median, whiskers reach 1.5 times its width. */
export function errorBoxes(samples: readonly EvalSample[], unit: string): Chart {
  const methods = groupBy(samples, ({ method }) => method);
  const names = [...methods].map(([method, all]) => {
    const unreadable = all.filter((sample) => sample.unreadable).length;
    return unreadable === 0 ? method : `${method}\n${unreadable} of ${all.length} none`;
  });
  const boxes = [...methods.values()].map((all) =>
    boxOf(all.filter(({ unreadable }) => !unreadable).map(({ errors }) => errors)),
  );
  return {
    height: 90 + 46 * methods.size,
    option: {
      grid: rowsGrid(),
      xAxis: { ...axis(unit), type: "value", min: 0 },
      yAxis: categories(names),
      series: [
        {
          type: "boxplot",
          layout: "vertical",
          boxWidth: [10, 26],
          data: boxes.map(({ five }, index) => ({
            value: five,
            itemStyle: { color: "#ffffff", borderColor: lookOf([...methods.keys()][index]!).color, borderWidth: 2 },
          })),
        },
        {
          type: "scatter",
          symbolSize: 5,
          itemStyle: { color: "#595959", opacity: 0.6 },
          data: boxes.flatMap(({ outliers }, index) => outliers.map((value) => [value, index])),
        },
      ],
    },
  };
}

/** Branches that decode in a step, as the search goes on: the mean of the searches that still run. */
export function widthOverSteps(samples: readonly EvalSample[], width: number): Chart {
  const methods = groupBy(samples, ({ method }) => method);
  const { height: top, legend } = legendOf(methods, width);
  return {
    height: plotHeight + top,
    option: {
      legend,
      grid: grid(top),
      xAxis: { ...axis("engine step of the search"), type: "value", min: 0 },
      yAxis: { ...axis("branches in a step"), nameGap: 38, type: "value", min: 0 },
      series: [...methods].map(([method, all]) => ({
        ...{ name: method, type: "line" as const, showSymbol: false, symbol: lookOf(method).symbol },
        itemStyle: { color: lookOf(method).color },
        lineStyle: { color: lookOf(method).color, width: 2 },
        data: meanWidths(all.map(({ widths }) => widths)),
      })),
    },
  };
}

/** KV bytes that attention read, beside what reading each branch by itself would have cost. */
export function kvBytes(rows: readonly EvalRow[]): Chart {
  const bars = (name: string, color: string, of: (row: EvalRow) => number) => ({
    ...{ name, type: "bar" as const, itemStyle: { color }, barMaxWidth: 14 },
    data: rows.map((row) => of(row) / 1e6),
    label: { show: true, position: "right" as const, formatter: ({ value }: { value?: unknown }) => megabytes(value) },
  });
  return {
    height: 130 + 44 * rows.length,
    option: {
      legend: { top: 0, left: 0 },
      grid: { ...rowsGrid(26), right: 44 },
      xAxis: { ...axis("KV read for a problem, MB"), type: "value", min: 0 },
      yAxis: categories(rows.map(({ method }) => method)),
      series: [
        bars("read", "#0072b2", ({ kvBytesRead }) => kvBytesRead),
        bars("each branch by itself", "#b8b8b8", ({ kvBytesUnshared }) => kvBytesUnshared),
      ],
    },
  };
}

function lookOf(method: string) {
  return looks[method as EvalMethod];
}

function percentages({ accuracy: { mean, low, high } }: EvalRow): [number, number, number] {
  return [100 * mean, 100 * low, 100 * high];
}

function axis(name: string) {
  return {
    name,
    nameLocation: "middle" as const,
    nameGap: 32,
    nameTextStyle: { color: ink, fontSize: 14 },
    axisLabel: { color: ink, fontSize: 13, hideOverlap: true },
    axisLine: { show: true, lineStyle: { color: ink } },
    splitLine: { lineStyle: { color: "#e6e6e6" } },
  };
}

/** From top to bottom. */
function categories(names: readonly string[]) {
  return {
    type: "category" as const,
    data: [...names],
    inverse: true,
    axisLabel: { color: ink, fontSize: 13, interval: 0 },
    axisTick: { show: false },
  };
}

/** Of a plot with numbers on both axes. */
function grid(top: number) {
  return { top: top + 14, left: 58, right: 22, bottom: 52 };
}

/** Of a plot with a row for each method. */
function rowsGrid(top = 0) {
  return { ...grid(top), left: namesWidth };
}

/** Names side by side, as many as fit: text may be wider than a server without fonts knows. */
function legendOf(methods: ReadonlyMap<string, unknown>, width: number) {
  const columns = Math.max(1, Math.floor(width / 150));
  return {
    height: 24 * Math.ceil(methods.size / columns),
    legend: {
      top: 0,
      left: 0,
      width: width - 50,
      data: [...methods.keys()],
      itemGap: 16,
      textStyle: { color: ink, fontSize: 13 },
    },
  };
}

/** The next of 1, 2, 5, 10, 20, 50... below; of minus a number, the next above. */
function roundedDown(value: number): number {
  const size = Math.max(1, Math.abs(value));
  const power = 10 ** Math.floor(Math.log10(size));
  const steps = [1, 2, 5, 10].map((step) => step * power);
  return value < 0 ? -steps.find((step) => step >= size)! : steps.findLast((step) => step <= size)!;
}

/**
 * Bars from low to high. `data`: `along` 0: [x, y, low, high], bars upright; `along` 1: [x, low, high, index], bars level.
 */
function intervalSeries(name: string, color: string, data: readonly number[][], along: 0 | 1) {
  return {
    ...{ name, type: "custom" as const, silent: true, itemStyle: { color }, data: data.map((point) => [...point]) },
    // biome-ignore lint/suspicious/noExplicitAny: ECharts' parameters of a custom series
    renderItem(_: any, api: any) {
      const at = (place: number) => api.value(place) as number;
      const ends: number[][] =
        along === 0
          ? [api.coord([at(0), at(2)]), api.coord([at(0), at(3)])]
          : [api.coord([at(1), at(3)]), api.coord([at(2), at(3)])];
      const [[x1, y1], [x2, y2]] = ends as [[number, number], [number, number]];
      return { type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: color, lineWidth: 2, opacity: 0.55 } };
    },
    encode: along === 0 ? { x: 0, y: [2, 3] } : { x: [1, 2], y: 3 },
  };
}

function boxOf(values: readonly number[]): { five: number[]; outliers: number[] } {
  const sorted = [...values].sort((a, b) => a - b);
  if (sorted.length === 0) return { five: [], outliers: [] };
  const [q1, q2, q3] = [0.25, 0.5, 0.75].map((share) => quantile(sorted, share)) as [number, number, number];
  const reach = 1.5 * (q3 - q1);
  const inside = sorted.filter((value) => value >= q1 - reach && value <= q3 + reach);
  const outliers = sorted.filter((value) => value < q1 - reach || value > q3 + reach);
  return { five: [inside[0]!, q1, q2, q3, inside.at(-1)!], outliers };
}

const widthPoints = 60;

/** [step, mean width]; searches that ended before a step are not in its mean. */
export function meanWidths(searches: readonly (readonly StepRun[])[]): [number, number][] {
  const longest = Math.max(0, ...searches.map((runs) => runs.reduce((sum, { steps }) => sum + steps, 0)));
  const stride = Math.max(1, longest / widthPoints);
  const points = Array.from({ length: Math.ceil(longest / stride) }, (_, i) => Math.floor(i * stride));
  return points.map((step) => {
    const widths = searches.flatMap((runs) => widthAt(runs, step) ?? []);
    return [step + 1, widths.reduce((sum, width) => sum + width, 0) / widths.length];
  });
}

function widthAt(runs: readonly StepRun[], step: number): number | undefined {
  let begin = 0;
  for (const { steps, tokens } of runs) {
    if (step < begin + steps) return tokens / steps;
    begin += steps;
  }
  return undefined;
}

function megabytes(value: unknown): string {
  const amount = Number(value);
  if (!Number.isFinite(amount)) return "";
  return amount >= 100 ? amount.toFixed(0) : amount.toPrecision(2);
}
