// The newest rehearsal of the run: how far it is, both curves, the difference with its interval, and what to do with it.

import { appliedSince, rehearsalNote, verdict } from "/lumina/static/difference.js";
import { integer, number, words } from "/lumina/static/format.js";
import { html, put } from "/lumina/static/html.js";
import { axis, colours, draw, legend } from "/lumina/static/plot.js";
import { LIVE_STATES, state, subscribe } from "/lumina/static/store.js";

const button = (action, text, kind = "") => html`<button type="button" data-action="${action}" class="${kind}">${text}</button>`;

const isOpen = (proposal) => Boolean(proposal) && (state.doc?.queue?.open ?? []).some((one) => one.id === proposal);

function buttons(one) {
  if (one.state === "running") return button("stop_rehearsal", "Stop the rehearsal", "lm-no");
  const live = LIVE_STATES.has(state.doc?.state);
  const apply = one.state === "finished" && live && !appliedSince(one, state.receipts) ? button("apply", isOpen(one.proposal) ? "Approve" : "Apply", "lm-yes") : null;
  return html`${apply}${button("discard_rehearsal", "Discard")}`;
}

function progress(one) {
  if (one.state !== "running") return null;
  const share = Math.round((100 * one.done) / one.of);
  return html`<div class="lm-confidence" role="progressbar" aria-label="Rehearsed" aria-valuemin="0" aria-valuemax="100"
    aria-valuenow="${share}"><i style="width:${share}%"></i></div>`;
}

function figures(one) {
  const { with: changed, without: unchanged } = one.val_loss;
  if (!one.difference) return null;
  const validation = changed !== null && unchanged !== null && html`<dt>validation</dt><dd>${number(unchanged)} → ${number(changed)}</dd>`;
  return html`<p class="lm-verdict" data-verdict="${one.difference.verdict}">${verdict(one)}</p>
    <dl><dt>last quarter</dt><dd>${number(one.difference.late)}</dd><dt>spread of a step</dt><dd>${number(one.difference.spread)}</dd>${validation}</dl>`;
}

function card(one) {
  const from = one.from_step === null ? "" : `from step ${integer(one.from_step)} · `;
  const applied = appliedSince(one, state.receipts);
  const note = one.state === "running" ? `${integer(one.done)} of ${integer(one.of)} steps` : one.state;
  return html`<header><h2 id="lm-rehearsal-title">Rehearsal</h2><small>${from}${note}</small></header>
    <h3>${one.method} <small>${words(one.args)}</small></h3>${progress(one)}<p class="lm-quiet">${rehearsalNote(one)}</p>${figures(one)}
    ${applied && html`<p class="lm-quiet">Applied at step ${integer(applied.step)}.</p>`}
    <div class="lm-buttons">${buttons(one)}</div>`;
}

function curve(chart, one) {
  const paint = colours();
  const { with: changed, without: unchanged } = one.loss;
  const trace = (points, name, colour) => ({ x: points.step, y: points.value, name, mode: "lines", line: { color: colour, width: 1.6 } });
  const layout = {
    hovermode: "x unified", margin: { l: 38, r: 8, t: 4, b: 24 }, showlegend: true, legend,
    xaxis: axis(paint, { nticks: 5 }), yaxis: axis(paint, { nticks: 4 }),
  };
  chart.setAttribute("aria-label", `Loss with and without the change over ${changed.step.length} steps`);
  draw(chart, [trace(unchanged, "without", paint.dim), trace(changed, "with", paint.accent)], layout, one.id);
}

export function mount(element, { trigger }) {
  put(element, html`<section class="lm-card lm-rehearsal" aria-labelledby="lm-rehearsal-title" hidden>
    <div class="lm-rehearsal-text"></div><div class="lm-chart" style="height:150px" role="img"></div></section>`);
  const box = element.firstElementChild;
  const [text, chart] = box.children;
  const newest = () => state.rehearsals[0] ?? null;
  element.addEventListener("click", (event) => {
    const action = event.target.closest("button[data-action]")?.dataset.action;
    const one = newest();
    if (!action || !one) return;
    event.target.disabled = true;
    const { run } = state;
    if (action !== "apply") return trigger("command", { run, action, id: one.id });
    if (isOpen(one.proposal)) return trigger("command", { run, action: "approve", proposal: one.proposal, args: one.args });
    return trigger("command", { run, action: "intervene", method: one.method, args: one.args });
  });
  subscribe(element, () => {
    const one = newest();
    box.hidden = !one;
    if (!one) return;
    put(text, card(one));
    chart.hidden = !one.loss.with.step.length;
    if (!chart.hidden) curve(chart, one);
  });
}
