// Expert load: one row per MoE layer, one cell per expert, 1.0 = an equal share of the tokens.

import { html, put } from "/lumina/static/html.js";
import { axis, colours, draw, isDark } from "/lumina/static/plot.js";
import { subscribe } from "/lumina/static/store.js";

const MOST = 2; // the colour scale ends at twice the fair share; the hover text tells the true value
const LIGHT = [[0, "#b91c1c"], [0.12, "#ef4444"], [0.35, "#f1f5f9"], [0.6, "#e0e7ff"], [0.8, "#818cf8"], [1, "#3730a3"]];
const DARK = [[0, "#f87171"], [0.12, "#b91c1c"], [0.4, "#26304a"], [0.55, "#26304a"], [0.8, "#4f46e5"], [1, "#c7d2fe"]];

const everyOf = (count) => Math.max(1, Math.ceil(count / 8));

function render(chart, { run, experts }) {
  if (!experts?.load?.length) return;
  const { layers, load, live } = experts;
  const paint = colours();
  // A slot without a live expert is a gap, not an expert that nobody uses.
  const z = load.map((row, i) => row.map((share, j) => (live && live[i][j] === false ? null : share)));
  const width = Math.max(...load.map((row) => row.length));
  const trace = {
    type: "heatmap", z, x: [...Array(width).keys()], y: layers.map(String), zmin: 0, zmax: MOST, xgap: 1, ygap: 1,
    colorscale: isDark() ? DARK : LIGHT, hoverongaps: false,
    hovertemplate: "layer %{y} · expert %{x}<br>%{z:.2f} × the fair share<extra></extra>",
    colorbar: { thickness: 8, outlinewidth: 0, tickvals: [0, 1, MOST], len: 0.95 },
  };
  const layout = {
    margin: { l: 34, r: 6, t: 4, b: 32 },
    xaxis: axis(paint, { title: { text: "expert", standoff: 2 }, dtick: everyOf(width), showgrid: false }),
    yaxis: axis(paint, { title: { text: "layer", standoff: 4 }, type: "category", autorange: "reversed", dtick: everyOf(2 * layers.length), showgrid: false }),
  };
  chart.setAttribute("aria-label", `Expert load in ${layers.length} layers at step ${experts.step}`);
  draw(chart, [trace], layout, run);
}

export function mount(element) {
  put(element, html`
    <section class="lm-card" aria-labelledby="lm-experts-title">
      <header><h2 id="lm-experts-title">Expert load</h2><small>1.0 = balanced share</small></header>
      <div class="lm-chart" id="lm-experts-chart" style="height:232px" role="img" aria-label="Expert load: nothing yet"></div>
    </section>`);
  subscribe(element, (state) => render(element.querySelector(".lm-chart"), state));
}
