// What to say when there is nothing to watch: no run, a run that is not learning yet, or one that has ended.

import { duration, integer, number } from "/lumina/static/format.js";
import { html, put } from "/lumina/static/html.js";
import { LIVE_STATES, subscribe } from "/lumina/static/store.js";

const command = (text) => html`<code class="lm-command">${text}</code>`;

function noRuns(dirFlag) {
  return html`
    <div class="lm-hero">
      <h2>No runs yet</h2>
      <p>Start one in a terminal. It trains in the background and appears here by itself.</p>
      ${command(`lumina train debug --data my.txt --name first --background${dirFlag}`)}
      <p>Without <code>--data</code> it trains on the built-in corpus.</p>
    </div>`;
}

function notice(kind, title, body) {
  return html`<div class="lm-notice" data-kind="${kind}" role="status"><b>${title}</b><span>${body}</span></div>`;
}

/** "tokenizing 43%" → a bar; other phases → their words. */
function preparing(doc) {
  const share = /(\d+(?:\.\d+)?)\s*%/.exec(doc.phase ?? "");
  const bar = share && html`<span class="lm-bar"><i style="width:${Math.min(100, Number(share[1]))}%"></i></span>`;
  return html`<div class="lm-notice" data-kind="busy" role="status">
    <b>${doc.phase || "starting"}</b><span>Charts begin with the first step.</span>${bar}</div>`;
}

function ended(doc, resume) {
  const at = `step ${integer(doc.step ?? 0)}`;
  if (doc.state === "crashed") {
    const silent = doc.heartbeat_age_s > 5 ? ` Its last sign of life was ${duration(doc.heartbeat_age_s)} ago.` : "";
    return notice("bad", "crashed", html`The trainer went away at ${at} without ending the run.${silent}
      Nothing up to the last checkpoint is lost: ${command(resume)}`);
  }
  if (doc.state === "failed") {
    return notice("bad", "failed", html`${doc.error || `The trainer gave up at ${at}.`} To go on from the last checkpoint: ${command(resume)}`);
  }
  if (doc.state === "stopped") return notice("quiet", "stopped", html`At ${at}. To go on: ${command(resume)}`);
  const loss = doc.val_loss ?? doc.loss;
  const reached = typeof loss === "number" && html`, ${doc.val_loss ? "validation" : "training"} loss ${number(loss)}`;
  return notice("good", "finished", html`At ${at}${reached}. To train on: ${command(`${resume} --steps ${2 * (doc.step ?? 0) || 300}`)}`);
}

function noticeFor(state) {
  if (state.contact === "denied") {
    return notice("bad", "no access", html`The dashboard was started anew. Open the URL that <code>lumina-ui</code> printed.`);
  }
  if (state.contact === "lost") {
    return notice("bad", "no contact", html`The dashboard's server does not answer. Training does not need it and goes on; this page keeps trying.`);
  }
  if (state.runs && !state.runs.length) return noRuns(state.dirFlag);
  if (state.unknown) return notice("bad", "not found", html`There is no run “${state.run}”. Choose another one.`);
  const doc = state.doc;
  if (!doc) return html``;
  const resume = `lumina resume ${doc.name ?? state.run}${state.dirFlag}`;
  if (["crashed", "failed", "stopped", "finished"].includes(doc.state)) return ended(doc, resume);
  if (LIVE_STATES.has(doc.state) && !doc.step) return preparing(doc);
  return html``;
}

export function mount(element) {
  subscribe(element, (state) => put(element, noticeFor(state)));
}
