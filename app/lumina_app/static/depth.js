// Mixture-of-Depths: the share of tokens that take each layer, and the mean of them.

import { percent } from "/lumina/static/format.js";
import { html, put } from "/lumina/static/html.js";
import { axis, colours, draw } from "/lumina/static/plot.js";
import { subscribe } from "/lumina/static/store.js";

function render(chart, { run, depth }) {
  if (!depth?.usage?.length) return;
  const paint = colours();
  const mean = depth.usage.reduce((sum, share) => sum + (share ?? 0), 0) / depth.usage.length;
  const trace = {
    type: "bar", x: depth.usage.map((_, layer) => layer), y: depth.usage, marker: { color: paint.accent, opacity: 0.85 },
    hovertemplate: "layer %{x}: %{y:.1%}<extra></extra>",
  };
  const layout = {
    margin: { l: 42, r: 14, t: 6, b: 32 }, bargap: 0.25,
    xaxis: axis(paint, { title: { text: "layer", standoff: 2 }, dtick: Math.ceil(depth.usage.length / 8), showgrid: false }),
    yaxis: axis(paint, { range: [0, 1.1], tickformat: ".0%", dtick: 0.2 }),
    shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: mean, y1: mean, line: { color: paint.warn, width: 1.5, dash: "dot" } }],
    annotations: [{
      xref: "paper", x: 1, xanchor: "right", y: mean, yanchor: "bottom", showarrow: false,
      text: `mean ${percent(mean, 0)}`, font: { color: paint.warn, size: 10.5 },
    }],
  };
  chart.setAttribute("aria-label", `Share of tokens per layer at step ${depth.step}, mean ${percent(mean, 0)}`);
  draw(chart, [trace], layout, run);
}

export function mount(element) {
  put(element, html`
    <section class="lm-card" aria-labelledby="lm-depth-title">
      <header><h2 id="lm-depth-title">Mixture-of-Depths</h2><small>share of tokens that take each layer</small></header>
      <div class="lm-chart" id="lm-depth-chart" style="height:232px" role="img" aria-label="Depth: nothing yet"></div>
    </section>`);
  subscribe(element, (state) => render(element.querySelector(".lm-chart"), state));
}
