// The Chinchilla budget: tokens seen against the compute-optimal number.

import { compact, duration, number, percent } from "/lumina/static/format.js";
import { html, put } from "/lumina/static/html.js";
import { LIVE_STATES, subscribe } from "/lumina/static/store.js";

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

/** "2.14 (2.01 to 2.30)": where the loss should end, and the band that holds it in nine cases of ten. */
function finalLoss({ predicted_final_loss: loss, predicted_low: low, predicted_high: high }) {
  if (loss === null || loss === undefined) return "–";
  return html`<span title="the band holds the end in nine cases of ten">${number(loss, 2)} <small>${number(low, 2)} to ${number(high, 2)}</small></span>`;
}

function epochs({ epochs: planned, epochs_advice: advice }) {
  if (!planned) return "–";
  return html`<span title="${advice ? `now ${advice.epochs}: ${advice.why}` : ""}">${advice?.epochs ?? planned.epochs} <small>one covers ${percent(planned.coverage, 1)}</small></span>`;
}

function recommendation({ recommendation: told }) {
  return told ? html`<p class="lm-course" data-action="${told.action}"><b>${told.action}</b> ${told.why}</p>` : null;
}

/** Until the budget is spent, at the speed of now: no time of the run, which may end before or after it. */
function left(budget, doc) {
  if (!LIVE_STATES.has(doc.state) || budget.eta_s === null || budget.eta_s === undefined) return "–";
  return html`${duration(budget.eta_s)} <small>to the budget</small>`;
}

function render(body, basis, doc) {
  const budget = doc?.budget;
  if (!budget || !budget.tokens_optimal) {
    put(body, html`<p class="lm-quiet">Known when training begins.</p>`);
    return;
  }
  put(basis, html`${budget.multiplier ?? 20} tokens per ${budget.basis === "active" ? "active " : ""}parameter`);
  put(body, html`${gauge(budget.progress)}<dl>
    ${row("Seen", compact(budget.tokens_seen))}${row("Optimal", compact(budget.tokens_optimal))}
    ${row("Phase", budget.phase ?? "–")}${row("Left", left(budget, doc))}
    ${row("Settled", budget.convergence_score === null ? "–" : percent(budget.convergence_score / 100, 0))}
    ${row("Final loss", finalLoss(budget))}${row("Epochs", epochs(budget))}
    ${row("Basis", `${budget.basis ?? "total"} parameters`)}</dl>${recommendation(budget)}`);
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
