// The card that asks a person: what is proposed, why, how sure; approve, edit or reject.

import { integer, percent, plain, words } from "/lumina/static/format.js";
import { html, put } from "/lumina/static/html.js";
import { verdict } from "/lumina/static/difference.js";
import { LIVE_STATES, receipts, state, subscribe } from "/lumina/static/store.js";

const CLICK_MS = 4000; // a click that led to nothing (the page showed why) may be tried again after this

// What the person is doing with the card; while they type, it stays as it is.
const doing = { mode: "read", id: null, clicked: null, until: 0 };

const reading = () => Object.assign(doing, { mode: "read", id: null });

function proposalNow() {
  const open = LIVE_STATES.has(state.doc?.state) ? state.doc.queue?.open ?? [] : []; // nobody reads an answer any more
  const kept = open.find((proposal) => proposal.id === doing.id);
  if (doing.mode !== "read" && kept) return kept;
  if (doing.mode !== "read") reading(); // it expired, or somebody else decided
  return open[0] ?? null;
}

const isSent = (id) =>
  receipts().some((receipt) => receipt.proposal === id && receipt.state === "queued") ||
  (doing.clicked === id && Date.now() < doing.until);

function declared(method, name) {
  return state.catalogue[method]?.args.find((arg) => arg.name === name);
}

function allowed(arg) {
  if (!arg) return "";
  const low = arg.ge ?? arg.gt;
  const above = arg.ge === null && arg.gt !== null ? "above " : "";
  if (low !== null && arg.le !== null) return `${above}${plain(low)} to ${plain(arg.le)}`;
  return low !== null ? `${above}${plain(low)}${above ? "" : " or more"}` : "";
}

/** An undo names what it takes back; its receipt is for the trainer. */
const titleOf = (proposal) => (isUndo(proposal) ? `undo ${proposal.evidence?.numbers?.method ?? ""}` : proposal.method);
const isUndo = (proposal) => proposal.method === "undo";

function values(proposal) {
  if (isUndo(proposal)) return null;
  return Object.entries(proposal.args).map(([name, value]) => html`<dt>${name}</dt><dd>${plain(value)}</dd>`);
}

function fields(proposal) {
  return Object.entries(proposal.args).map(([name, value]) => {
    const arg = declared(proposal.method, name);
    const id = `lm-edit-${name}`;
    return html`<dt><label for="${id}">${name}</label></dt><dd>
      <input id="${id}" name="${name}" inputmode="decimal" autocomplete="off" value="${value}" />
      <small>${allowed(arg)}</small></dd>`;
  });
}

const button = (action, text, kind, disabled = false) =>
  html`<button type="button" data-action="${action}" class="${kind}" ${disabled ? html`disabled` : null}>${text}</button>`;

function buttons(proposal) {
  if (doing.mode === "edit") return html`${button("apply", "Approve as edited", "lm-yes")}${button("read", "Cancel", "")}`;
  if (doing.mode === "reject") return html`${button("refuse", "Reject", "lm-no")}${button("read", "Cancel", "")}`;
  const sent = isSent(proposal.id);
  return html`${button("approve", sent ? "Sent ..." : "Approve", "lm-yes", sent)}${isUndo(proposal) ? null : button("edit", "Edit", "", sent)}
    ${state.catalogue[proposal.method]?.rehearsable ? button("rehearse", "Rehearse", "", sent || isRehearsing()) : null}${button("reject", "Reject", "lm-no", sent)}`;
}

const isRehearsing = () => state.rehearsals.some((one) => one.state === "running");

/** What a rehearsal of just this change has found. */
function rehearsed(proposal) {
  const found = state.rehearsals.find((one) => one.proposal === proposal.id && one.difference);
  return found && html`<p class="lm-rehearsed" role="status"><b>Rehearsed</b> ${words(found.args)}: ${verdict(found)}</p>`;
}

function why() {
  return html`<label class="lm-why">Why (optional) <input name="why" autocomplete="off" maxlength="300" /></label>`;
}

function header(proposal, waiting) {
  const queue = doing.mode === "read" ? `${waiting} in queue · ` : "";
  const until = proposal.expires_step ? ` · until step ${integer(proposal.expires_step)}` : "";
  return html`<header><h2 id="lm-approval-title">Approval needed</h2>
    <small>${queue}step ${integer(proposal.step)}${until}</small></header>`;
}

function card(proposal, waiting) {
  const confidence = Math.round(100 * (proposal.confidence ?? 0));
  return html`
    <section class="lm-card lm-asks" aria-labelledby="lm-approval-title" data-proposal="${proposal.id}">
      ${header(proposal, waiting)}
      <h3>${titleOf(proposal)}</h3>
      <div class="lm-confidence" role="meter" aria-label="Confidence" aria-valuemin="0" aria-valuemax="100"
        aria-valuenow="${confidence}"><i style="width:${confidence}%"></i></div>
      <p>${proposal.evidence?.summary ?? ""} Confidence ${percent(proposal.confidence, 0)}.</p>
      ${doing.mode === "reject" ? why() : html`<dl>${doing.mode === "edit" ? fields(proposal) : values(proposal)}</dl>`}
      ${rehearsed(proposal)}
      <div class="lm-buttons">${buttons(proposal)}</div>
    </section>`;
}

const QUIET = {
  observe: "The orchestrator only observes: it proposes nothing.",
  ask: "When the orchestrator wants to change something, it asks here.",
  auto: "The orchestrator acts alone within its limits.",
};

function quiet(doc) {
  const text = LIVE_STATES.has(doc.state) ? QUIET[doc.autonomy] ?? QUIET.ask : `The run is ${doc.state}; nothing waits for a decision.`;
  return html`<section class="lm-card" aria-labelledby="lm-approval-title">
    <header><h2 id="lm-approval-title">Nothing to approve</h2></header><p class="lm-quiet">${text}</p></section>`;
}

/** Typed values that differ from the proposal's, or the complaint about the first that is no number. */
function edited(element, proposal) {
  const changed = {};
  for (const input of element.querySelectorAll("dl input")) {
    const value = Number(input.value.trim() || "x");
    if (!Number.isFinite(value)) return { error: `${input.name}: “${input.value}” is not a number` };
    const arg = declared(proposal.method, input.name);
    const outside = arg && ((arg.ge !== null && value < arg.ge) || (arg.gt !== null && value <= arg.gt) || (arg.le !== null && value > arg.le));
    if (outside) return { error: `${input.name}: ${plain(value)} is outside ${allowed(arg)}` };
    if (value !== proposal.args[input.name]) changed[input.name] = value;
  }
  return { changed };
}

export function mount(element, { trigger }) {
  const draw = () => {
    const proposal = state.doc && proposalNow();
    if (!state.doc) return put(element, html``);
    return put(element, proposal ? card(proposal, state.doc.queue.open.length) : quiet(state.doc));
  };
  const send = (proposal, decision) => {
    trigger("command", { run: state.run, proposal: proposal.id, ...decision });
    reading();
    Object.assign(doing, { clicked: proposal.id, until: Date.now() + CLICK_MS });
    draw();
  };
  const begin = (mode, proposal, focus) => {
    Object.assign(doing, { mode, id: proposal.id });
    draw();
    element.querySelector(focus)?.focus();
  };
  const approve = (proposal) => {
    const { changed, error } = edited(element, proposal);
    if (!error) return send(proposal, { action: "approve", args: changed });
    // Put the words in without drawing the card anew: what was typed stays.
    const place = element.querySelector(".lm-error") ?? element.querySelector(".lm-buttons").insertAdjacentElement("beforebegin", document.createElement("p"));
    place.className = "lm-error";
    place.setAttribute("role", "alert");
    place.textContent = error;
    return null;
  };
  const actions = {
    approve: (proposal) => send(proposal, { action: "approve", args: {} }),
    apply: approve,
    rehearse: (proposal) => trigger("command", {
      run: state.run, action: "rehearse", proposal: proposal.id, method: proposal.method, args: proposal.args,
    }),
    refuse: (proposal) => send(proposal, { action: "reject", args: { why: element.querySelector("input[name=why]").value } }),
    edit: (proposal) => begin("edit", proposal, "dl input"),
    reject: (proposal) => begin("reject", proposal, "input[name=why]"),
    read: () => {
      reading();
      draw();
    },
  };
  element.addEventListener("click", (event) => {
    const action = event.target.closest("button[data-action]")?.dataset.action;
    const proposal = proposalNow();
    if (action && proposal) actions[action](proposal);
  });
  element.addEventListener("keydown", (event) => {
    if (doing.mode === "read") return;
    if (event.key === "Escape") actions.read();
    if (event.key === "Enter" && event.target.tagName === "INPUT") element.querySelector(".lm-buttons button").click();
  });
  subscribe(element, draw);
}

