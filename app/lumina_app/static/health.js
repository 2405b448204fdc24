// The health report: what is wrong and how surely, what would help, and the areas in which nothing is.

import { percent, words } from "/lumina/static/format.js";
import { html, put } from "/lumina/static/html.js";
import { subscribe } from "/lumina/static/store.js";

const MOST_RECOMMENDATIONS = 3;

function issue({ severity, message, confidence }) {
  return html`<li data-status="${severity}"><i></i><p>${message} <small>${percent(confidence, 0)} sure</small></p></li>`;
}

function area([name, { said }]) {
  return html`<li data-status="healthy"><i></i><p>${name} <small>${said}</small></p></li>`;
}

function recommendation({ method, args, why, confidence }) {
  const what = method ? `${method} ${method === "undo" ? "" : words(args)}` : why;
  return html`<li><i></i><p><b>${what}</b> <small>${percent(confidence, 0)} sure</small></p></li>`;
}

function render(element, doc) {
  const health = doc?.health;
  if (!health?.status || !Object.keys(health.areas ?? {}).length) return put(element, html``);
  const quiet = Object.entries(health.areas).filter(([, told]) => told.status === "healthy");
  const advice = health.recommendations.slice(0, MOST_RECOMMENDATIONS);
  return put(element, html`
    <section class="lm-card" aria-labelledby="lm-health-title">
      <header><h2 id="lm-health-title">Health</h2><small>${health.status}</small></header>
      <ul class="lm-report" aria-live="polite">${health.issues.map(issue)}${quiet.map(area)}</ul>
      ${advice.length ? html`<h3>Recommended</h3><ul class="lm-report">${advice.map(recommendation)}</ul>` : null}
    </section>`);
}

export function mount(element) {
  subscribe(element, (state) => render(element, state.doc));
}
