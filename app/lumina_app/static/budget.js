// The Chinchilla budget: tokens seen against the compute-optimal number.

import { compact, duration, percent } from "/lumina/static/format.js";
import { html, put } from "/lumina/static/html.js";
import { subscribe } from "/lumina/static/store.js";

const RADIUS = 44;
const ARC = Math.PI * RADIUS;
const PATH = `M10 58a${RADIUS} ${RADIUS} 0 0 1 ${2 * RADIUS} 0`;

function gauge(progress) {
  const filled = ARC * Math.min(1, Math.max(0, progress ?? 0));
  return html`
    <svg width="108" height="66" viewBox="0 0 108 66" role="img" aria-label="${percent(progress)} of the optimal tokens seen">
      <path class="lm-track" d="${PATH}" />
      <path class="lm-fill" d="${PATH}" stroke-dasharray="${filled} ${ARC}" style="${filled > 0 ? "" : "display:none"}" />
      <text x="54" y="54" text-anchor="middle">${percent(progress)}</text>
    </svg>`;
}

const row = (name, value) => html`<dt>${name}</dt><dd>${value}</dd>`;

function render(body, basis, doc) {
  const budget = doc?.budget;
  if (!budget || !budget.tokens_optimal) {
    put(body, html`<p class="lm-quiet">Known when training begins.</p>`);
    return;
  }
  put(basis, html`${budget.multiplier ?? 20} tokens per ${budget.basis === "active" ? "active " : ""}parameter`);
  put(body, html`${gauge(budget.progress)}<dl>
    ${row("Seen", compact(budget.tokens_seen))}${row("Optimal", compact(budget.tokens_optimal))}
    ${row("Phase", budget.phase ?? "–")}${row("Left", duration(budget.eta_s))}
    ${row("Basis", `${budget.basis ?? "total"} parameters`)}</dl>`);
}

export function mount(element) {
  put(element, html`
    <section class="lm-card" aria-labelledby="lm-budget-title">
      <header><h2 id="lm-budget-title">Chinchilla budget</h2><small></small></header>
      <div class="lm-budget"></div>
    </section>`);
  const basis = element.querySelector("small");
  subscribe(element, (state) => render(element.querySelector(".lm-budget"), basis, state.doc));
}
