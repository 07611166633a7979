/** Charts to SVG text, on the server side of ECharts: no browser, no DOM. */
import { BarChart, BoxplotChart, CustomChart, LineChart, ScatterChart } from "echarts/charts";
import { GridComponent, LegendComponent } from "echarts/components";
import { type EChartsCoreOption, init, use } from "echarts/core";
import { SVGRenderer } from "echarts/renderers";
import { htmlEscape } from "escape-goat";

use([BarChart, BoxplotChart, CustomChart, LineChart, ScatterChart, GridComponent, LegendComponent, SVGRenderer]);

export interface Chart {
  option: EChartsCoreOption;
  /** Pixels. */
  height: number;
}

/** `alt`: what a reader hears who does not see it. */
export function chartSvg({ option, height }: Chart, width: number, alt: string): string {
  const chart = init(null, null, { renderer: "svg", ssr: true, width, height });
  try {
    chart.setOption({
      animation: false,
      backgroundColor: "#ffffff",
      textStyle: { fontFamily: "system-ui, sans-serif", fontSize: 13 },
      ...option,
    });
    return chart.renderToSVGString().replace("<svg ", `<svg role="img" aria-label="${htmlEscape(alt)}" `);
  } finally {
    chart.dispose();
  }
}
