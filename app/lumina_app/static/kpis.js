// The row of figures. Each is the newest value of a series, named as the metrics are.

import { compact, number, percent, scientific, integer } from "/lumina/static/format.js";
import { html, put } from "/lumina/static/html.js";
import { horizonOf, latest, smooth } from "/lumina/static/series.js";
import { subscribe } from "/lumina/static/store.js";

function figure(id, label, value, unit = null, title = "") {
  return html`<div class="lm-kpi" id="lm-kpi-${id}" title="${title}">
    <dt>${label}</dt><dd><span>${value}</span>${unit}</dd></div>`;
}

const unit = (text) => html`<em>${text}</em>`;

function trainLoss(series) {
  const label = "Train loss (EMA)";
  if (!series.loss) return figure("loss", label, number(null));
  const horizon = horizonOf(series.loss);
  const means = smooth(series.loss, horizon);
  const points = { step: series.loss.step, value: means };
  const now = latest(points);
  const before = valueAt(points, points.step[points.step.length - 1] - 2 * horizon);
  const title = `exponential mean over ${horizon} steps; the arrow compares with ${2 * horizon} steps ago`;
  if (before === null || now === null) return figure("loss", label, number(now), null, title);
  const change = now - before;
  const arrow = change > 0 ? "▲" : "▼";
  const text = html`<em class="${change > 0 ? "lm-worse" : "lm-better"}">${arrow} ${Math.abs(change).toFixed(3)}</em>`;
  return figure("loss", label, number(now), text, title);
}

/** The last value at or before `step`, or null. */
function valueAt(points, step) {
  for (let i = points.step.length - 1; i >= 0; i--) {
    if (points.step[i] <= step && points.value[i] !== null) return points.value[i];
  }
  return null;
}

function meanDepth(depth) {
  if (!depth?.usage?.length) return figure("depth", "Mean depth", number(null));
  const layers = depth.usage.reduce((sum, share) => sum + (share ?? 0), 0);
  return figure("depth", "Mean depth", number(layers, 2), unit(`of ${depth.usage.length}`), "layers that a token takes, on average");
}

function figures({ series, depth }) {
  const of = (name) => latest(series[name]);
  const dropped = of("moe.drop_fraction");
  const entropy = of("moe.routing_entropy");
  return [
    trainLoss(series),
    figure("perplexity", "Val perplexity", number(of("val_perplexity"), 2)),
    figure("throughput", "Throughput", compact(of("throughput")), unit("tok/s")),
    figure("grad", "Grad norm", number(of("grad_norm"), 2)),
    figure("rate", "Learning rate", scientific(of("learning_rate"))),
    figure("entropy", "Routing entropy", number(entropy), entropy !== null && unit("of 1")),
    figure("dropped", "Tokens dropped", dropped === null ? number(null) : (100 * dropped).toFixed(2), dropped !== null && unit("%"),
      `${integer(of("moe.tokens_dropped"))} in the last step, ${percent(dropped, 2)}`),
    meanDepth(depth),
  ];
}

export function mount(element) {
  put(element, html`<dl class="lm-kpis" aria-label="Figures of the last step"></dl>`);
  const row = element.firstElementChild;
  subscribe(element, (state) => put(row, html`${figures(state)}`));
}
