// Markup that is safe by construction: whatever is put into a template is escaped, unless it is markup itself.
// Run names, messages and arguments come from files that anybody may have written.

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

class Markup {
  constructor(text) {
    this.text = text;
  }
}

/** Text as it may stand in HTML (and in Plotly's pseudo-HTML). */
export function escapeText(value) {
  return String(value ?? "").replace(/[&<>"']/g, (character) => ESCAPES[character]);
}

function render(value) {
  if (value instanceof Markup) return value.text;
  if (Array.isArray(value)) return value.map(render).join("");
  if (value === null || value === undefined || value === false) return "";
  return escapeText(value);
}

/** html`<b>${anything}</b>`: escaped markup; null, undefined and false leave nothing. */
export function html(strings, ...values) {
  return new Markup(strings.reduce((text, part, index) => text + render(values[index - 1]) + part));
}

const shown = new WeakMap();

/** Shows `markup` in `element`, touching the page only when it differs: focus, selection and scroll stay. */
export function put(element, markup) {
  if (shown.get(element) === markup.text) return false;
  shown.set(element, markup.text);
  element.innerHTML = markup.text;
  return true;
}
