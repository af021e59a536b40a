// The template says what is shown: data-figure, data-chart, data-state.

import {call, explain, start} from "./api.js";
import {draw, format} from "./chart.js";
import {$} from "./dom.js";
import {increase, parse, quantile, sums, total} from "./prometheus.js";

// Milliseconds.
const INTERVAL = 2000;
const TIMEOUT = 4000;
const HISTORY = 600_000;
const EVENT = 60_000;
// After a longer pause, as in a hidden tab, a rate would be an average of the pause.
const MAX_ELAPSED = 10_000;

const charts = [...document.querySelectorAll("[data-chart]")].map((element) => ({element, points: [], ...element.dataset}));
const events = {};
let before;
let workerCounts = [];
let jobs;
let polls = 0;
let timer;
let isPolling = false;

function show(name, value, isBad = false) {
  const element = $(`[data-figure="${name}"]`);
  element.textContent = typeof value === "string" ? value : format(value);
  element.classList.toggle("bad", isBad);
}

/** Show the states, each with its start and its detail. An event stays for a minute. */
function showStates(states, now) {
  for (const [name, time] of Object.entries(events)) if (now - time < EVENT) states[name] = "";
  for (const element of document.querySelectorAll("[data-state]")) {
    const name = element.dataset.state;
    if (element.hidden || events[name] === now) {
      $("time", element).textContent = new Date(now).toLocaleTimeString("en-GB");
    }
    element.hidden = !(name in states);
    const detail = $("b", element);
    if (detail && detail.textContent !== states[name]) detail.textContent = states[name] ?? "";
  }
}

/** What a chart shows now, by the name of the line. */
function current({chart, metric, label}, samples, now) {
  if (chart === "jobs") return jobs ?? new Map();
  if (chart === "gauges") return new Map(Object.entries(JSON.parse(metric)).map(([name, gauge]) => [name, total(samples, gauge)]));
  const elapsed = (now - before?.time) / 1000;
  if (!(elapsed * 1000 < MAX_ELAPSED)) return new Map();
  const grown = increase(sums(samples, metric, label), sums(before.samples, metric, label));
  if (chart === "rates") return new Map([...grown].map(([key, count]) => [key, count / elapsed]));
  return new Map([50, 95, 99].map((percent) => [`p${percent}`, quantile(percent / 100, grown) * 1000 || undefined]));
}

function showMetrics(samples, now, states) {
  const gauge = (name) => total(samples, `fieldbook_${name}`);
  const [workers, started] = [gauge("workers"), gauge("workers_started_total")];
  if (before && started !== before.started) events[started < before.started ? "restarted" : "replaced"] = now;
  // As many as in most of the last minute.
  workerCounts = [...workerCounts.slice(-29), workers];
  const missing = workerCounts.toSorted((a, b) => a - b)[workerCounts.length >> 1] - workers;
  if (missing > 0) states.workers = `${missing}`;
  if (gauge("workers_without_redis")) states.redis = "";

  for (const each of charts) {
    const values = current(each, samples, now);
    each.points = [...each.points.filter(({time}) => now - time < HISTORY), {time: now, values}];
    draw(each.element, each.points);
    if (each.chart === "latency") for (const [name, value] of values) show(name, value);
    if (each.total) show(each.total, values.size ? [...values.values()].reduce((a, b) => a + b) : undefined);
  }
  before = {time: now, samples, started};
  show("workers", workers, missing > 0);
  for (const name of ["requests", "streams"]) show(name, `${gauge(`${name}_in_flight`)} of ${gauge(`${name}_in_flight_limit`)}`);
  show("queued", gauge("requests_queued"));
  show("errors", gauge("driver_errors_total"));
  return {up: gauge("nodes_up"), down: gauge("nodes_down"), quorum: !gauge("workers_without_quorum")};
}

function showHealth(health, nodes, states) {
  const {up, down, quorum} = nodes ?? {...health.nodes, quorum: health.quorum};
  show("up", up);
  show("down", down, down > 0);
  show("quorum", quorum ? "yes" : "no", !quorum);
  if (health && health.status !== "healthy") states[health.status] = "";
  if (!quorum && health?.status !== "unhealthy") states.quorum = "";
  if (down) states.down = `${down} of ${up + down}`;
  if (health?.pending_migrations?.length) states.pending = health.pending_migrations.join(", ");
}

const get = (path, headers) => call("GET", path, {headers, signal: AbortSignal.timeout(TIMEOUT)});
const getMetrics = async () => parse(await (await get("/metrics", {Accept: "text/plain"})).text());
const getHealth = () => get("/health").then((response) => response.json(), (error) => {
  if (error.document?.nodes) return error.document;
  throw error;
});

async function getJobs() {
  const counts = new Map();
  for (const {state} of await (await get("/jobs?limit=100")).json()) counts.set(state, (counts.get(state) ?? 0) + 1);
  return counts;
}

async function poll() {
  if (isPolling || document.hidden) return;
  isPolling = true;
  clearTimeout(timer);
  const now = Date.now();
  const states = {};
  const [metrics, health, listed] = await Promise.allSettled([getMetrics(), getHealth(), polls++ % 5 ? jobs : getJobs()]);
  jobs = listed.value;
  if ([401, 403].includes(metrics.reason?.status)) states.access = metrics.reason.message;
  else if (metrics.reason && health.value) states.refused = explain(metrics.reason);
  else if (metrics.reason) states.unreachable = "";
  const nodes = metrics.value && showMetrics(metrics.value, now, states);
  if (nodes || health.value) showHealth(health.value, nodes, states);
  showStates(states, now);
  isPolling = false;
  timer = setTimeout(poll, now + INTERVAL - Date.now());
}

document.addEventListener("visibilitychange", poll);
start(poll);
