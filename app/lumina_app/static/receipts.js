// The trainer's answers to commands: what was asked, and the values read back from the live model.

import { args, integer, plain } from "/lumina/static/format.js";
import { html, put } from "/lumina/static/html.js";
import { receipts, subscribe } from "/lumina/static/store.js";

const SHOWN = 6;
const MOST_CHANGES = 3;

/** "temperature 1 → 2.3" for every value that changed. */
function change({ before, after }) {
  const changed = Object.entries(after ?? {}).filter(([name, value]) => JSON.stringify(before?.[name]) !== JSON.stringify(value));
  const shown = changed.slice(0, MOST_CHANGES).map(([name, value]) => `${name} ${plain(before?.[name])} → ${plain(value)}`);
  if (changed.length > MOST_CHANGES) shown.push(`${changed.length - MOST_CHANGES} more`);
  return shown.join(", ");
}

function line(receipt) {
  const what = receipt.method ? `${receipt.method} ${args(receipt.args)}` : receipt.kind;
  const read = receipt.reason ?? change(receipt);
  const step = receipt.step === null || receipt.step === undefined ? "" : integer(receipt.step);
  return html`<li data-state="${receipt.state}" data-receipt="${receipt.id}"><span>${step}</span>
    <p><b>${what}</b> <i>${receipt.state}</i>${read && html`<small>${read}</small>`}</p></li>`;
}

export function mount(element) {
  subscribe(element, () => {
    const listed = receipts().slice(0, SHOWN);
    put(element, listed.length ? html`
      <section class="lm-card" aria-labelledby="lm-receipts-title">
        <header><h2 id="lm-receipts-title">Receipts</h2><small>values read back from the live run</small></header>
        <ol class="lm-receipts" aria-live="polite">${listed.map(line)}</ol>
      </section>` : html``);
  });
}
