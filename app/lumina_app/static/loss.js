// Loss over steps, with a mark wherever an intervention was applied.

import { words } from "/lumina/static/format.js";
import { escapeText, html, put } from "/lumina/static/html.js";
import { axis, colours, draw, isNarrow, legend } from "/lumina/static/plot.js";
import { evenly, horizonOf, rangeOf, smooth } from "/lumina/static/series.js";
import { LIVE_STATES, fetchLoss, state, subscribe } from "/lumina/static/store.js";

const view = { smooth: true, log: false };
const OVERLAY_MS = 2000; // between looks at a child run that is still computed
let overlay = null; // {name, state, step, value} of the child run to compare with
let chosen = "";

const isEmergency = (mark) => mark.method.startsWith("emergency") || mark.method.startsWith("rollback");

const VERDICTS = { helped: "good", hurt: "bad", neutral: "dim", inconclusive: "dim" };

/** The mark's colour: what it turned out to do, and until that is known how grave it was. */
const paintOf = (mark, paint) => paint[VERDICTS[mark.effect?.state]] ?? (isEmergency(mark) ? paint.bad : paint.warn);

function effectText({ effect }) {
  if (!effect) return "not measured";
  if (effect.state === "pending") return `known at step ${effect.due_step ?? "?"}`;
  return effect.summary ? `${effect.state}: ${effect.summary}` : effect.state;
}

/** "undo prune_expert": an undo's mark has the method of what it took back. */
const asked = ({ kind, method, args }) =>
  kind === "undo" ? `<b>undo ${escapeText(method)}</b>` : `<b>${escapeText(method)}</b> ${escapeText(words(args))}`;

function markText(mark) {
  const effect = effectText(mark);
  const by = mark.author?.name ? ` · ${mark.author.name}` : "";
  return `${asked(mark)}<br>${escapeText(mark.state ?? "")}${escapeText(by)}<br>` +
    `effect ${escapeText(effect)}`;
}

function curves(series, paint) {
  const loss = series.loss;
  const shown = evenly(loss);
  const traces = [{
    x: shown.step, y: shown.value, name: "train", mode: "lines", line: { color: paint.accent, width: 1 },
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

/** Thin lines: where a rewind left the run, and the child run that was chosen to compare with. */
function others(branches, paint) {
  const shown = (curve) => (view.smooth ? smooth(curve, horizonOf(state.series.loss)) : curve.value);
  const traces = branches.map((branch) => ({
    x: branch.step, y: shown(branch), name: `left at ${branch.left_at}, back to ${branch.back_to}`, mode: "lines",
    line: { color: paint.dim, width: 1 }, opacity: 0.75,
  }));
  if (overlay?.step.length) {
    traces.push({ x: overlay.step, y: shown(overlay), name: overlay.name, mode: "lines", line: { color: paint.good, width: 1.6 } });
  }
  return traces;
}

/** A word at the end of each branch, since the legend is far from it. */
const branchNote = (branch, paint) => ({
  x: branch.left_at, xref: "x", y: branch.value.findLast((value) => value !== null), yref: "y", text: `left at step ${branch.left_at}`,
  showarrow: false, xanchor: "left", yanchor: "bottom", font: { size: 10, color: paint.dim },
});

function marksTrace(marks, paint) {
  return {
    x: marks.map((mark) => mark.step), y: marks.map(() => 0.97), yaxis: "y2", name: "interventions", mode: "markers",
    marker: { symbol: "triangle-down", size: 10, color: marks.map((mark) => paintOf(mark, paint)) },
    text: marks.map(markText), hovertemplate: "%{text}<extra>step %{x}</extra>",
  };
}

const NEAR = 0.1; // of the steps shown: as wide as a verdict
const LEVELS = [0.84, 0.76, 0.68];

/** Verdicts in a word beside their marks, each beneath the one before where they are near; the figures are in the mark's text. */
function verdictNotes(marks, paint, steps) {
  const span = steps.at(-1) - steps[0];
  let level = 0;
  return marks.map((mark, i) => {
    const near = i > 0 && mark.step - marks[i - 1].step < NEAR * span * (isNarrow() ? 3 : 1);
    level = near ? (level + 1) % LEVELS.length : 0;
    const last = mark.step > steps.at(-1) - NEAR * span;
    return {
      x: mark.step, xref: "x", y: LEVELS[level] - (isNarrow() ? 0.1 : 0), yref: "paper", text: mark.effect.state, showarrow: false,
      xanchor: last ? "right" : "left", xshift: last ? -5 : 5, font: { size: 10.5, color: paintOf(mark, paint) },
    };
  });
}

const markLine = (mark, paint) => ({
  type: "line", x0: mark.step, x1: mark.step, yref: "paper", y0: 0, y1: 1,
  line: { color: paintOf(mark, paint), width: 1, dash: "dash" },
});

function lossAxis(series, paint) {
  const shown = rangeOf([...series.loss.value, ...(series.val_loss?.value ?? [])]);
  if (!shown) return axis(paint, {});
  const room = 0.06 * (shown.high - shown.low);
  const low = Math.max(shown.low * 0.95, 1e-6);
  const range = view.log ? [Math.log10(low), Math.log10(shown.top * 1.05)] : [shown.low - room, shown.high + room];
  return axis(paint, { type: view.log ? "log" : "linear", range, uirevision: `${state.run} ${view.log}`, nticks: 7 });
}

function render(chart, { run, series, marks, branches }) {
  if (!series.loss?.step.length) return;
  const paint = colours();
  const layout = {
    hovermode: "x unified", margin: { l: 42, r: 14, t: 6, b: 32 }, showlegend: true,
    legend: isNarrow() ? { ...legend, entrywidth: 90 } : legend,
    xaxis: axis(paint, { title: { text: "step", standoff: 2 }, rangemode: "nonnegative", nticks: isNarrow() ? 5 : 10 }),
    yaxis: lossAxis(series, paint),
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
    shapes: marks.map((mark) => markLine(mark, paint)),
    annotations: [...branches.map((branch) => branchNote(branch, paint)), ...verdictNotes(marks.filter((mark) => VERDICTS[mark.effect?.state]), paint, series.loss.step)],
  };
  chart.setAttribute("aria-label", `Loss over ${series.loss.step.length} points, ${marks.length} interventions marked`);
  draw(chart, [...curves(series, paint), ...others(branches, paint), marksTrace(marks, paint)], layout, run);
}

const choice = (group, value, text, pressed) =>
  html`<button type="button" data-group="${group}" data-value="${value}" aria-pressed="${pressed}">${text}</button>`;

const nameOf = ({ name, without }) => (without ? `without ${without.method} at ${without.step}` : name);

/** The children that may be laid over the curve; one that is gone is not shown any more. */
function offer(select, children) {
  if (!children.some(({ name }) => name === chosen)) [chosen, overlay] = ["", null];
  put(select, html`<option value="">compare with ...</option>
    ${children.map((child) => html`<option value="${child.name}">${nameOf(child)}</option>`)}`);
  select.value = chosen;
  select.hidden = !children.length;
}

export function mount(element) {
  put(element, html`
    <section class="lm-card" aria-labelledby="lm-loss-title">
      <header><h2 id="lm-loss-title">Loss</h2><small>dashed marks are interventions</small><span class="lm-space"></span>
        <select class="lm-compare" aria-label="Compare with a replay" hidden></select>
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
  const compare = element.querySelector(".lm-compare");
  compare.addEventListener("change", () => {
    chosen = compare.value;
    overlay = null;
    look();
  });
  const look = async () => {
    const name = chosen;
    const found = name ? await fetchLoss(name).catch(() => null) : null;
    if (name !== chosen) return;
    overlay = found;
    if (state.doc) render(chart, state);
    if (found && LIVE_STATES.has(found.state)) window.setTimeout(look, OVERLAY_MS);
  };
  subscribe(element, (now) => {
    offer(compare, now.children);
    render(chart, now);
  });
}
