// The mark, the name, and the way to the other page.

import { html, put } from "/lumina/static/html.js";

const links = [["/", "Runs"], ["/data/", "Data"]];

export function mount(element) {
  const here = window.location.pathname;
  put(element, html`
    <div class="lm-brand">
      <svg width="22" height="22" viewBox="0 0 22 22" aria-hidden="true">
        <defs>
          <linearGradient id="lm-mark" x1="0" y1="0" x2="1" y2="1">
            <stop stop-color="#6366f1" /><stop offset="1" stop-color="#06b6d4" />
          </linearGradient>
        </defs>
        <rect width="22" height="22" rx="6" fill="url(#lm-mark)" />
        <path d="M6.5 5.5v10.5h8.5" stroke="#fff" stroke-width="2.2" fill="none" stroke-linecap="round" stroke-linejoin="round" />
        <circle cx="14.2" cy="8.2" r="1.9" fill="#fff" />
      </svg>
      <h1>Lumina</h1>
      <nav aria-label="Pages">${links.map(([path, name]) => html`
        <a href="${path}"${path === here ? html` aria-current="page"` : null}>${name}</a>`)}</nav>
    </div>`);
}
