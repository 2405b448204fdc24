// What this tab knows of the chosen run, and the poll that keeps it fresh. Panels subscribe; none of them fetches.

import { append } from "/lumina/static/series.js";

const TICK_MS = 1000; // between answers, while the run is alive
const IDLE_MS = 3000; // a run that has ended may be resumed from elsewhere
const LONGEST_WAIT_MS = 15000;
const LOST_AFTER = 3; // failures in a row
const RUNS_EVERY = 3; // ticks between looks at the list of runs
const EVENTS_KEPT = 300;
const POINTS_KEPT = 8000; // per series; above it the tab asks for everything anew, thinned out by the server

export const LIVE_STATES = new Set(["starting", "running", "paused", "stopping"]);

const fresh = () => ({
  doc: null, // the newest status, with budget and queue
  series: {},
  experts: null,
  depth: null,
  marks: [],
  events: [],
  receipts: [],
  branches: [], // what rewinds left behind
  children: [], // replays of this run, to lay over its curve
  rehearsals: [],
  cursor: null,
});

export const state = { run: null, runs: null, dirFlag: "", catalogue: {}, contact: "ok", unknown: false, ...fresh() };

const listeners = new Set();
const waiting = new Map(); // id → receipt as sent, until the server tells of it
let refused = null; // the last command, if it never left this page
let generation = 0;
let failures = 0;
let ticks = 0;
let timer = 0;
let looking = false;
let lookAgain = false;

/** Calls `draw(state)` now and after every change. A panel that has left the page is forgotten. */
export function subscribe(element, draw) {
  const listener = () => {
    if (!element.isConnected) return listeners.delete(listener);
    return draw(state);
  };
  listeners.add(listener);
  if (state.doc || state.runs) draw(state);
}

/** Redraws every panel: after new data, and when the colours change. */
export function redraw() {
  for (const listener of [...listeners]) {
    try {
      listener();
    } catch (error) {
      console.error(error); // one broken panel must not stop the others
    }
  }
}

/** Shows another run; null shows that there is none. */
export function selectRun(name) {
  if (name === state.run) return;
  generation += 1;
  failures = 0;
  waiting.clear();
  refused = null;
  Object.assign(state, fresh(), { run: name || null, unknown: false, contact: "ok" });
  const address = new URL(window.location.href);
  if (name) address.searchParams.set("run", name);
  else address.searchParams.delete("run");
  window.history.replaceState(window.history.state, "", address);
  redraw();
  poll();
}

/** A command was sent: it shows as queued at once, and the answer is fetched soon. One that was refused was not sent. */
export function commandSent(receipt) {
  if (!receipt) return;
  refused = receipt.state === "refused" && !receipt.id ? receipt : null;
  if (receipt.id) waiting.set(receipt.id, receipt);
  redraw();
  window.setTimeout(poll, 150);
}

/** Receipts newest first, those on their way before all others. */
export const receipts = () => [...(refused ? [refused] : []), ...[...waiting.values()].reverse(), ...state.receipts];

/** The loss of a child run, to lay over its parent's; null when there is no such run. */
export async function fetchLoss(run) {
  const doc = await fetchJson(`/lumina/live?${new URLSearchParams({ run })}`);
  return doc && { name: run, state: doc.state, ...(doc.series.loss ?? { step: [], value: [] }) };
}

async function fetchJson(path) {
  const response = await fetch(path, { credentials: "same-origin", headers: { accept: "application/json" } });
  if (response.status === 403) throw Object.assign(new Error("no token"), { denied: true });
  if (response.status === 404 || response.status === 400) return null;
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  return response.json();
}

async function fetchRuns() {
  const found = await fetchJson("/lumina/runs");
  state.runs = found.runs;
  state.dirFlag = found.dir_flag;
}

async function fetchLive() {
  const asked = generation;
  const anew = state.cursor === null;
  const query = new URLSearchParams({ run: state.run });
  if (state.cursor) query.set("cursor", state.cursor);
  const doc = await fetchJson(`/lumina/live?${query}`);
  if (asked !== generation) return; // another run was chosen meanwhile
  state.unknown = doc === null;
  if (doc) merge(doc, anew || doc.full);
}

function merge(doc, anew) {
  if (anew) Object.assign(state, { series: {}, events: [] });
  for (const [name, points] of Object.entries(doc.series ?? {})) {
    if (state.series[name]) append(state.series[name], points);
    else state.series[name] = points;
  }
  if (doc.experts) state.experts = doc.experts;
  if (doc.depth) state.depth = doc.depth;
  if (doc.marks) state.marks = doc.marks;
  if (doc.receipts) state.receipts = doc.receipts;
  if (doc.branches) state.branches = doc.branches;
  if (doc.children) state.children = doc.children;
  if (doc.rehearsals) state.rehearsals = doc.rehearsals;
  const newest = (doc.events ?? []).slice().sort((a, b) => b.id - a.id);
  const known = new Set(state.events.slice(0, newest.length + 1).map((event) => event.id));
  state.events = [...newest.filter((event) => !known.has(event.id)), ...state.events].slice(0, EVENTS_KEPT);
  for (const receipt of state.receipts) waiting.delete(receipt.id);
  state.doc = { ...doc.status, budget: doc.budget, queue: doc.queue };
  const longest = Math.max(0, ...Object.values(state.series).map((series) => series.step.length));
  state.cursor = longest > POINTS_KEPT ? null : doc.cursor;
}

function nextWait() {
  if (failures) return Math.min(TICK_MS * 2 ** (failures - 1), LONGEST_WAIT_MS);
  return !state.doc || LIVE_STATES.has(state.doc.state) || waiting.size ? TICK_MS : IDLE_MS;
}

async function look() {
  const asked = generation;
  try {
    if (ticks % RUNS_EVERY === 0 || !state.run) await fetchRuns();
    if (state.run) await fetchLive();
    ticks += 1;
    failures = 0;
    state.contact = "ok";
  } catch (error) {
    failures += 1;
    if (error.denied) state.contact = "denied";
    else if (failures >= LOST_AFTER) state.contact = "lost";
  }
  if (asked === generation) redraw();
}

/** Looks at the server and plans the next look. One at a time; a hidden tab rests until it is shown again. */
export async function poll() {
  window.clearTimeout(timer);
  if (looking) {
    lookAgain = true;
    return;
  }
  if (document.hidden) return;
  looking = true;
  do {
    lookAgain = false;
    await look();
  } while (lookAgain);
  looking = false;
  timer = window.setTimeout(poll, nextWait());
}

async function start() {
  try {
    const declared = (await fetchJson("/lumina/catalogue"))?.catalogue ?? [];
    state.catalogue = Object.fromEntries(declared.map((declaration) => [declaration.method, declaration]));
  } catch (error) {
    state.contact = error.denied ? "denied" : state.contact; // the poll goes on trying
  }
  poll();
}

document.addEventListener("visibilitychange", () => poll());
// Gradio marks the dark theme with a class on the body.
new MutationObserver(redraw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
start();
