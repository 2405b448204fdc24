// The pills at the top: what the run is doing, how far it is, who decides. Also tells Gradio when the list of runs changes.

import { duration, integer } from "/lumina/static/format.js";
import { html, put } from "/lumina/static/html.js";
import { LIVE_STATES, subscribe } from "/lumina/static/store.js";

const AUTONOMY = { observe: "observing", ask: "supervised", auto: "autonomous" };

function stateName(state) {
  if (state.contact !== "ok") return "no contact";
  return state.doc?.state ?? "";
}

/** "supervised · step 120 of 300 · 2 min left" */
function progress(doc) {
  const of = doc.total_steps ? ` of ${integer(doc.total_steps)}` : "";
  const parts = [AUTONOMY[doc.autonomy] ?? doc.autonomy, `step ${integer(doc.step ?? 0)}${of}`];
  if (doc.phase) parts.push(doc.phase);
  else if (doc.state === "running" && doc.eta_s) parts.push(`${duration(doc.eta_s)} left`);
  return parts.filter(Boolean).join(" · ");
}

function health(doc) {
  const issues = doc.health?.issues ?? [];
  if (!issues.length || !LIVE_STATES.has(doc.state)) return null;
  const text = issues.map((issue) => issue.message).join("\n");
  return html`<span class="lm-pill lm-health" data-status="${doc.health.status}" title="${text}"><i></i>${doc.health.status}</span>`;
}

/** Pause, Resume, Checkpoint and Stop are Gradio's buttons; which of them make sense is known here. */
function setButtons(doc) {
  const alive = Boolean(doc) && LIVE_STATES.has(doc.state);
  const paused = doc?.state === "paused";
  document.body.dataset.lmPaused = String(paused);
  for (const id of ["lm-pause", "lm-unpause", "lm-checkpoint", "lm-stop"]) {
    const button = document.getElementById(id);
    if (button) button.disabled = !alive || doc.state === "stopping";
  }
}

export function mount(element, { trigger }) {
  let listed = null;
  put(element, html`<div class="lm-pills"></div>`);
  const pills = element.firstElementChild;
  subscribe(element, (state) => {
    const names = JSON.stringify((state.runs ?? []).map((run) => run.name));
    if (state.runs && names !== listed) {
      if (listed !== null || !state.run) trigger("runs_changed", {});
      listed = names;
    }
    setButtons(state.doc);
    document.body.dataset.lmEmpty = String(state.runs !== null && !state.runs.length);
    const name = stateName(state);
    if (!name) return put(pills, html``);
    const kind = name === "no contact" ? "lost" : name;
    return put(pills, html`
      <span class="lm-pill lm-state" data-state="${kind}" role="status"><i></i><b>${name}</b></span>
      ${state.doc && html`<span class="lm-pill lm-progress">${progress(state.doc)}</span>${health(state.doc)}`}`);
  });
}
