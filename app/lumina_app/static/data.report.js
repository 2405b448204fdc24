// A data report as cards: figures, the table of files, what was rejected, and samples token by token.

import { compact, integer, number, percent } from "/lumina/static/format.js";
import { html } from "/lumina/static/html.js";

const SHOWN_TOKENS = 700;
const SHOWN_ISSUES = 100; // of a file
const SHOWN_FILES = 100;
const SHOWN_PROBLEMS = 20; // files with a card of their own
const SHOWN_SAMPLES = 12;

function figure(label, value, note = null, kind = "") {
  return html`<div class="lm-kpi" data-kind="${kind}"><dt>${label}</dt><dd><span>${value}</span>${note && html`<em>${note}</em>`}</dd></div>`;
}

function figures({ totals, usable }) {
  const share = totals.samples ? percent(totals.invalid / totals.samples) : null;
  return html`<dl class="lm-kpis lm-data-kpis" aria-label="Totals">
    ${figure("Verdict", usable ? "usable" : "not usable", null, usable ? "good" : "bad")}
    ${figure("Files", integer(totals.files), bytes(totals.bytes))}
    ${figure("Samples", compact(totals.samples))}
    ${figure("Valid", compact(totals.valid))}
    ${figure("Malformed", compact(totals.invalid), totals.invalid ? share : null, totals.invalid ? "bad" : "")}
    ${figure("Low quality", compact(totals.low_quality), null, totals.low_quality ? "warn" : "")}
    ${figure("Tokens", compact(totals.tokens))}
  </dl>`;
}

/** 1,500,000 → 1.5 MB. */
function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let size = count ?? 0;
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit ? size.toFixed(1) : size} ${units[unit]}`;
}

const COLUMNS = ["Samples", "Valid", "Malformed", "Low quality", "Quality", "Tokens", "Mean", "Median", "Min", "Max", "Std"];

function row(file) {
  const tokens = file.tokens ?? {};
  const cells = [
    integer(file.samples), integer(file.valid), integer(file.invalid), integer(file.low_quality), number(file.quality.mean),
    compact(tokens.total), ...["mean", "median", "min", "max", "std"].map((name) => compact(tokens[name])),
  ];
  const forms = Object.keys(file.forms).filter((form) => !["text", "conversation"].includes(form)).join(", ");
  return html`<tr data-usable="${file.usable}">
    <th scope="row" title="${file.path}"><b>${nameOf(file.path)}</b><small>${[file.format, file.kind, forms, bytes(file.bytes)].filter(Boolean).join(" · ")}</small></th>
    ${cells.map((cell) => html`<td>${cell}</td>`)}</tr>`;
}

/** The files, those in trouble first where there are too many to show. */
function pick(files) {
  if (files.length <= SHOWN_FILES) return files;
  const trouble = (file) => (file.usable ? 0 : 2) + (file.invalid + file.low_quality > 0 ? 1 : 0);
  return [...files].sort((one, other) => trouble(other) - trouble(one)).slice(0, SHOWN_FILES);
}

function rest(count, what) {
  return count > 0 && html`<p class="lm-quiet">and ${integer(count)} more${what && ` ${what}`}; <code>lumina data check</code> lists all of them</p>`;
}

const nameOf = (path) => path.split("/").filter(Boolean).pop() ?? path;

function table(document) {
  const shown = pick(document.files);
  const about = document.tokenizer?.name ? `tokens: ${document.tokenizer.name}` : "no tokens counted";
  return html`<section class="lm-card"><header><h2>Files</h2><small>${about}</small></header>
    <div class="lm-scroll" tabindex="0" role="region" aria-label="Statistics of every file"><table class="lm-table">
      <thead><tr><th scope="col">File</th>${COLUMNS.map((name) => html`<th scope="col">${name}</th>`)}</tr></thead>
      <tbody>${shown.map(row)}</tbody></table></div>
    ${rest(document.files.length - shown.length, "files")}</section>`;
}

/** A bar for each bucket, all files together. */
function lengths(document) {
  const buckets = new Map();
  for (const file of document.files) {
    for (const { from, to, samples } of file.lengths) buckets.set(to, { from, to, samples: samples + (buckets.get(to)?.samples ?? 0) });
  }
  const rows = [...buckets.values()].sort((one, other) => one.to - other.to);
  const most = Math.max(1, ...rows.map((bucket) => bucket.samples));
  if (!rows.length) return null;
  return html`<section class="lm-card"><header><h2>Length</h2><small>samples by their number of tokens</small></header>
    ${rows.map(({ from, to, samples }) => bar(`${compact(from)} to ${compact(to)}`, samples, most))}</section>`;
}

function bar(label, count, most) {
  return html`<div class="lm-row"><span>${label}</span><i style="width:${((100 * count) / most).toFixed(1)}%"></i><b>${compact(count)}</b></div>`;
}

function roles({ totals }) {
  const counts = Object.entries(totals.roles ?? {});
  if (!counts.length) return null;
  const most = Math.max(...counts.map(([, count]) => count));
  return html`<section class="lm-card"><header><h2>Roles</h2><small>messages of each</small></header>
    ${counts.map(([role, count]) => bar(role, count, most))}</section>`;
}

/** Why quality was lost, over all files. */
function quality(document) {
  const counts = new Map();
  for (const file of document.files) {
    for (const [name, count] of Object.entries(file.quality.penalties ?? {})) counts.set(name, count + (counts.get(name) ?? 0));
  }
  const rows = [...counts].sort((one, other) => other[1] - one[1]);
  if (!rows.length) return null;
  return html`<section class="lm-card"><header><h2>Quality</h2><small>samples that each penalty touched</small></header>
    ${rows.map(([name, count]) => bar(name.replaceAll("_", " "), count, rows[0][1]))}</section>`;
}

/** A card for each file with something rejected. */
function problems(document) {
  const files = document.files.filter((file) => file.error || file.issues.length);
  const more = rest(files.length - SHOWN_PROBLEMS, "files with something rejected");
  return html`${files.slice(0, SHOWN_PROBLEMS).map(issues)}${more && html`<section class="lm-card">${more}</section>`}`;
}

function issues(file) {
  const listed = file.issues.filter(({ line, reason }) => line || reason !== file.error);
  const shown = listed.slice(0, SHOWN_ISSUES);
  return html`<section class="lm-card lm-issues"><header><h2>${nameOf(file.path)}</h2><small title="${file.path}">${file.path}</small></header>
    ${file.error && html`<p class="lm-error" role="alert">${file.error}</p>`}
    ${shown.length > 0 && html`<ol>${shown.map(({ line, reason }) => html`<li><span>${line ? `line ${integer(line)}` : "file"}</span><p>${reason}</p></li>`)}</ol>`}
    ${rest(listed.length - shown.length + file.issues_not_listed, "")}</section>`;
}

function samples(document) {
  const shown = document.files.flatMap((file) => file.shown.map((sample) => ({ ...sample, path: file.path })));
  if (!shown.length) return null;
  return html`<section class="lm-card lm-samples"><header><h2>Samples</h2>
    <small>token by token</small><span class="lm-space"></span>
    <span class="lm-legend"><span class="lm-t lm-on">carries loss</span><span class="lm-t">no loss</span><span class="lm-t lm-special">special</span></span></header>
    ${shown.slice(0, SHOWN_SAMPLES).map(sample)}</section>`;
}

function sample({ path, line, form, quality: score, tokens, loss, special, tokens_not_shown: left }) {
  const on = loss.reduce((sum, flag) => sum + flag, 0);
  const spans = tokens.slice(0, SHOWN_TOKENS).map((text, index) => {
    const kind = `lm-t${loss[index] ? " lm-on" : ""}${special[index] ? " lm-special" : ""}`;
    return html`<span class="${kind}">${visible(text)}</span>`;
  });
  const more = tokens.length - spans.length + left;
  return html`<article><p class="lm-quiet">${nameOf(path)}, line ${integer(line)} · ${form} · quality ${number(score, 2)} ·
    ${integer(on)} of ${left ? "the first " : ""}${integer(tokens.length)} tokens carry loss</p>
    <p class="lm-tokens">${spans}${more > 0 && html`<em>and ${integer(more)} more tokens</em>`}</p></article>`;
}

/** Line ends are seen, and still end the line. */
const visible = (text) => text.replaceAll("\n", "↵\n");

/** The whole report. */
export function report(document) {
  if (!document.files) return html`<p class="lm-notice" data-kind="bad" role="alert">${document.error?.message ?? "no report"}</p>`;
  return html`${figures(document)}
    ${document.error && html`<p class="lm-notice" data-kind="bad" role="alert">${document.error.message}</p>`}
    ${table(document)}
    <div class="lm-cards">${lengths(document)}${roles(document)}${quality(document)}</div>
    ${problems(document)}
    ${samples(document)}`;
}
