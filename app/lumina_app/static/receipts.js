// The trainer's answers to commands: what was asked, and the values read back from the live model.

import { integer, plain, words } from "/lumina/static/format.js";
import { html, put } from "/lumina/static/html.js";
import { LIVE_STATES, receipts, state, subscribe } from "/lumina/static/store.js";

const SHOWN = 6;
const MOST_CHANGES = 3;

/** "temperature 1 → 2.3" for every value that changed. */
function change({ before, after }) {
  const changed = Object.entries(after ?? {}).filter(([name, value]) => JSON.stringify(before?.[name]) !== JSON.stringify(value));
  const shown = changed.slice(0, MOST_CHANGES).map(([name, value]) =>
    before && name in before ? `${name} ${plain(before[name])} → ${plain(value)}` : `${name} ${plain(value)}`);
  if (changed.length > MOST_CHANGES) shown.push(`${changed.length - MOST_CHANGES} more`);
  return shown.join(", ");
}

/** Only what is in force on the current line can be undone, and only once; beneath a later change the button says why not. */
function undoOf(receipt) {
  const mark = state.marks.find((one) => one.id === receipt.id && one.kind !== "undo");
  const undone = receipts().some((other) => other.undoes === receipt.id || (other.kind === "undo" && other.args?.receipt === receipt.id && other.state === "queued"));
  if (!mark || undone || !LIVE_STATES.has(state.doc?.state)) return null;
  return html`<button type="button" data-undo="${receipt.id}" ${mark.undo ? html`disabled` : null}
    title="${mark.undo ?? "set the old values again"}">Undo</button>`;
}

/** What the steps after it told: a verdict with its figures, or when it will be known. */
function effect({ effect: told }) {
  if (!told) return null;
  if (told.state === "pending") return html`<small class="lm-effect" data-effect="pending">effect known at step ${integer(told.due_step)}</small>`;
  return html`<small class="lm-effect" data-effect="${told.state}"><em>${told.state}</em> ${told.summary ?? ""}</small>`;
}

function line(receipt) {
  const what = receipt.kind === "undo" ? `undo ${receipt.method ?? ""}` : receipt.method ? `${receipt.method} ${words(receipt.args)}` : receipt.kind;
  const read = receipt.reason ?? change(receipt);
  const step = receipt.step === null || receipt.step === undefined ? "" : integer(receipt.step);
  return html`<li data-state="${receipt.state}" data-receipt="${receipt.id}"><span>${step}</span>
    <p><b>${what}</b> <i>${receipt.state}</i>
      ${undoOf(receipt)}${read && html`<small>${read}</small>`}${effect(receipt)}</p></li>`;
}

export function mount(element, { trigger }) {
  element.addEventListener("click", (event) => {
    const receipt = event.target.closest("button[data-undo]")?.dataset.undo;
    if (receipt) trigger("command", { run: state.run, action: "undo", receipt });
  });
  subscribe(element, () => {
    const listed = receipts().slice(0, SHOWN);
    put(element, listed.length ? html`
      <section class="lm-card" aria-labelledby="lm-receipts-title">
        <header><h2 id="lm-receipts-title">Receipts</h2><small>values read back from the live run</small></header>
        <ol class="lm-receipts" aria-live="polite">${listed.map(line)}</ol>
      </section>` : html``);
  });
}
