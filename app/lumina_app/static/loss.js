// Loss over steps, with a mark wherever an intervention was applied.

import { words } from "/lumina/static/format.js";
import { escapeText, html, put } from "/lumina/static/html.js";
import { axis, colours, draw, isNarrow, legend } from "/lumina/static/plot.js";
import { horizonOf, rangeOf, smooth } from "/lumina/static/series.js";
import { state, subscribe } from "/lumina/static/store.js";

const view = { smooth: true, log: false };

const isEmergency = (mark) => mark.method.startsWith("emergency") || mark.method.startsWith("rollback");

function markText(mark) {
  const effect = typeof mark.effect === "object" && mark.effect !== null ? mark.effect.summary ?? mark.effect.state : mark.effect;
  const by = mark.author?.name ? ` · ${mark.author.name}` : "";
  return `<b>${escapeText(mark.method)}</b> ${escapeText(words(mark.args))}<br>${escapeText(mark.state ?? "")}${escapeText(by)}<br>` +
    `effect: ${escapeText(effect || "pending")}`;
}

function curves(series, paint) {
  const loss = series.loss;
  const traces = [{
    x: loss.step, y: loss.value, name: "train", mode: "lines", line: { color: paint.accent, width: 1 },
    opacity: view.smooth ? 0.22 : 1, hoverinfo: view.smooth ? "skip" : "all",
  }];
  if (view.smooth) {
    const y = smooth(loss, horizonOf(loss));
    traces.push({ x: loss.step, y, name: "train (EMA)", mode: "lines", line: { color: paint.accent, width: 2 } });
  }
  if (series.val_loss) {
    const { step, value } = series.val_loss;
    traces.push({ x: step, y: value, name: "validation", mode: value.length > 1 ? "lines" : "markers", line: { color: paint.second, width: 1.6, dash: "dot" } });
  }
  return traces;
}

function marksTrace(marks, paint) {
  return {
    x: marks.map((mark) => mark.step), y: marks.map(() => 0.97), yaxis: "y2", name: "interventions", mode: "markers",
    marker: { symbol: "triangle-down", size: 10, color: marks.map((mark) => (isEmergency(mark) ? paint.bad : paint.warn)) },
    text: marks.map(markText), hovertemplate: "%{text}<extra>step %{x}</extra>",
  };
}

const markLine = (mark, paint) => ({
  type: "line", x0: mark.step, x1: mark.step, yref: "paper", y0: 0, y1: 1,
  line: { color: isEmergency(mark) ? paint.bad : paint.warn, width: 1, dash: "dash" },
});

function lossAxis(series, paint) {
  const shown = rangeOf([...series.loss.value, ...(series.val_loss?.value ?? [])]);
  if (!shown) return axis(paint, {});
  const room = 0.06 * (shown.high - shown.low);
  const low = Math.max(shown.low * 0.95, 1e-6);
  const range = view.log ? [Math.log10(low), Math.log10(shown.top * 1.05)] : [shown.low - room, shown.high + room];
  return axis(paint, { type: view.log ? "log" : "linear", range, uirevision: `${state.run} ${view.log}`, nticks: 7 });
}

function render(chart, { run, series, marks }) {
  if (!series.loss?.step.length) return;
  const paint = colours();
  const layout = {
    hovermode: "x unified", margin: { l: 42, r: 14, t: 6, b: 32 }, showlegend: true,
    legend: isNarrow() ? { ...legend, entrywidth: 90 } : legend,
    xaxis: axis(paint, { title: { text: "step", standoff: 2 }, rangemode: "nonnegative", nticks: isNarrow() ? 5 : 10 }),
    yaxis: lossAxis(series, paint),
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    shapes: marks.map((mark) => markLine(mark, paint)),
  };
  chart.setAttribute("aria-label", `Loss over ${series.loss.step.length} points, ${marks.length} interventions marked`);
  draw(chart, [...curves(series, paint), marksTrace(marks, paint)], layout, run);
}

const choice = (group, value, text, pressed) =>
  html`<button type="button" data-group="${group}" data-value="${value}" aria-pressed="${pressed}">${text}</button>`;

export function mount(element) {
  put(element, html`
    <section class="lm-card" aria-labelledby="lm-loss-title">
      <header><h2 id="lm-loss-title">Loss</h2><small>dashed marks are interventions</small><span class="lm-space"></span>
        <span class="lm-choice" role="group" aria-label="Curve">
          ${choice("smooth", "", "raw", "false")}${choice("smooth", "on", "smooth", "true")}</span>
        <span class="lm-choice" role="group" aria-label="Loss axis">
          ${choice("log", "", "lin", "true")}${choice("log", "on", "log", "false")}</span>
      </header>
      <div class="lm-chart" id="lm-loss-chart" style="height:268px" role="img" aria-label="Loss: no points yet"></div>
    </section>`);
  const chart = element.querySelector(".lm-chart");
  element.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-group]");
    if (!button) return;
    view[button.dataset.group] = Boolean(button.dataset.value);
    for (const other of button.parentElement.children) other.setAttribute("aria-pressed", String(other === button));
    render(chart, state);
  });
  subscribe(element, (now) => render(chart, now));
}
