// The data page: a form, the check that it starts, and the report. What the report looks like is in data.report.js.

import { report } from "/lumina/static/data.report.js";
import { html, put } from "/lumina/static/html.js";

const POLL_MS = 400;
const FORMS = ["auto", "text", "conversation", "xtuner", "messages", "sharegpt", "alpaca", "pairs"];
const url = (path, query = {}) => `/lumina/${path}?${new URLSearchParams(query)}`;

async function ask(path, query, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(url(path, query), options);
  const document = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(document.error?.message ?? `the dashboard answered ${answer.status}`);
  return document;
}

function form() {
  return html`<form class="lm-card lm-data-form" aria-label="What to check">
    <header><h2>Check data</h2><small>nothing is changed, and nothing leaves this machine</small></header>
    <div class="lm-fields">
      <label class="lm-wide">Files, folders or patterns, one in a line
        <textarea name="paths" rows="3" spellcheck="false" placeholder="corpus/&#10;chats/**/*.jsonl"></textarea></label>
      <label>or the files of a run <select name="run"><option value="">none</option></select></label>
      <label>Form of the samples <select name="format">${FORMS.map((name) => html`<option>${name}</option>`)}</select></label>
      <label>Field with the text <input name="text_field" value="text" spellcheck="false"></label>
      <label>Lowest quality <input name="quality_threshold" type="number" min="0" max="1" step="0.01" value="0.85"></label>
      <label class="lm-tick"><input name="mask_user_tokens" type="checkbox" checked> loss on the assistant's words only</label>
      <label class="lm-tick"><input name="automatic_data_cleaning" type="checkbox"> automatic cleaning</label>
    </div>
    <div class="lm-actions">
      <button type="submit" class="lm-go">Check</button>
      <button type="button" data-action="cancel" disabled>Cancel</button>
      <span class="lm-said lm-quiet" role="status"></span>
    </div>
  </form>
  <div class="lm-data-report"></div>`;
}

/** What the form says, as the route takes it. With a run, only what was changed overrides the run's own settings. */
function message(fields) {
  const run = fields.run.value;
  const settings = {};
  for (const name of ["format", "text_field", "quality_threshold", "mask_user_tokens", "automatic_data_cleaning"]) {
    const field = fields[name];
    if (run && !field.dataset.touched) continue;
    if (field.type === "checkbox") settings[name] = field.checked;
    else if (field.type === "number") settings[name] = Number(field.value);
    else settings[name] = field.value;
  }
  const paths = fields.paths.value.split("\n").map((line) => line.trim()).filter(Boolean);
  return { paths, run: run || null, settings };
}

const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));

class Page {
  constructor(element) {
    put(element, form());
    this.form = element.querySelector("form");
    this.said = element.querySelector(".lm-said");
    this.result = element.querySelector(".lm-data-report");
    this.id = null;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.check();
    });
    this.form.addEventListener("change", (event) => {
      event.target.dataset.touched = "true";
    });
    this.form.querySelector("[data-action=cancel]").addEventListener("click", () => this.cancel());
    this.fill();
  }

  /** Runs to choose from, and what the address says: /data?run=first or /data?path=a.jsonl. */
  async fill() {
    const address = new URL(window.location.href).searchParams;
    const { runs } = await ask("runs").catch(() => ({ runs: [] }));
    const names = html`<option value="">none</option>${runs.map((run) => html`<option>${run.name}</option>`)}`;
    put(this.form.elements.run, names);
    this.form.elements.run.value = address.get("run") ?? "";
    // The person may have begun to type meanwhile.
    if (address.has("path")) this.form.elements.paths.value = address.getAll("path").join("\n");
    if (address.has("run") || address.has("path")) this.check();
  }

  async check() {
    const wanted = message(this.form.elements);
    if (!wanted.paths.length && !wanted.run) {
      this.tell("name a file, a folder, a pattern or a run", true);
      return;
    }
    this.busy(true);
    this.tell("starting ...");
    try {
      this.id = (await ask("data/check", {}, wanted)).id;
      await this.follow(this.id);
    } catch (error) {
      this.tell(error.message, true);
    }
    this.busy(false);
  }

  async follow(id) {
    for (;;) {
      const { state, said, report: document } = await ask("data/check", { id });
      if (state === "done") {
        this.tell("");
        put(this.result, report(document));
        return;
      }
      if (state !== "running") {
        this.tell(state === "cancelled" ? "cancelled" : said || "the check gave no answer", state !== "cancelled");
        return;
      }
      this.tell(said || "reading ...");
      await wait(POLL_MS);
    }
  }

  async cancel() {
    await ask("data/cancel", { id: this.id }, {}).catch((error) => this.tell(error.message, true));
  }

  busy(now) {
    this.form.querySelector("[type=submit]").disabled = now;
    this.form.querySelector("[data-action=cancel]").disabled = !now;
  }

  tell(text, bad = false) {
    this.said.textContent = text;
    this.said.classList.toggle("lm-error", bad);
  }
}

export function mount(element) {
  new Page(element);
}
