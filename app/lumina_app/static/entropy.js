// Routing entropy and the share of tokens that found no room, over steps.

import { html, put } from "/lumina/static/html.js";
import { axis, colours, draw, isNarrow, legend } from "/lumina/static/plot.js";
import { horizonOf, rangeOf, smooth } from "/lumina/static/series.js";
import { subscribe } from "/lumina/static/store.js";

const curve = (series, name, colour, extra) => ({
  x: series.step, y: smooth(series, horizonOf(series) / 4), name, mode: "lines", line: { color: colour, width: 1.6 }, ...extra,
});

/** Down to the lowest entropy seen, but never a scale so fine that noise looks like a fall. */
function entropyRange(series) {
  const shown = rangeOf(series.value, 1);
  return [Math.min(0.9, Math.floor(20 * (shown?.low ?? 0.9)) / 20), 1.005];
}

function droppedRange(series) {
  const shown = series && rangeOf(series.value, 1);
  return [0, Math.max(0.06, 1.1 * (shown?.top ?? 0))];
}

function render(chart, { run, series }) {
  const entropy = series["moe.routing_entropy"];
  const dropped = series["moe.drop_fraction"];
  if (!entropy?.step.length) return;
  const paint = colours();
  const traces = [curve(entropy, "entropy", paint.good, { hovertemplate: "%{y:.3f}" })];
  if (dropped) traces.push(curve(dropped, "dropped", paint.warn, { yaxis: "y2", hovertemplate: "%{y:.2%}" }));
  const layout = {
    hovermode: "x unified", margin: { l: 42, r: 42, t: 4, b: 22 }, showlegend: true, legend,
    xaxis: axis(paint, { showgrid: false, nticks: isNarrow() ? 5 : 10 }),
    yaxis: axis(paint, { range: entropyRange(entropy), nticks: 4 }),
    yaxis2: axis(paint, { overlaying: "y", side: "right", tickformat: ".0%", range: droppedRange(dropped), showgrid: false, nticks: 4 }),
  };
  draw(chart, traces, layout, run);
}

export function mount(element) {
  put(element, html`
    <section class="lm-card" aria-labelledby="lm-entropy-title">
      <header><h2 id="lm-entropy-title">Routing entropy and dropped tokens</h2><small>1.0 = uniform routing</small></header>
      <div class="lm-chart" id="lm-entropy-chart" style="height:120px" role="img" aria-label="Routing entropy over steps"></div>
    </section>`);
  subscribe(element, (state) => render(element.querySelector(".lm-chart"), state));
}
