// The log of what happened, newest first.

import { integer } from "/lumina/static/format.js";
import { html, put } from "/lumina/static/html.js";
import { subscribe } from "/lumina/static/store.js";

function line(event) {
  const at = new Date(1000 * event.at).toLocaleString();
  return html`<li data-level="${event.level}" title="${at}"><span>${integer(event.step ?? 0)}</span><p>${event.message}</p></li>`;
}

export function mount(element) {
  put(element, html`
    <section class="lm-card" aria-labelledby="lm-events-title">
      <header><h2 id="lm-events-title">Events</h2></header>
      <ol class="lm-events" tabindex="0" aria-labelledby="lm-events-title"></ol>
    </section>`);
  const list = element.querySelector("ol");
  subscribe(element, ({ events }) =>
    put(list, events.length ? html`${events.map(line)}` : html`<li class="lm-quiet">Nothing has happened yet.</li>`));
}
