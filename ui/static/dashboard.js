// The data attributes in the template say what is shown.

import {call, explain, start} from "./api.js";
import {draw, format, GAP, sum} from "./chart.js";
import {$} from "./dom.js";
import {increase, parse, quantile, sums, total} from "./prometheus.js";
import {root} from "./session.js";

const all = (selector) => [...document.querySelectorAll(selector)];
const charts = all("[data-chart]").map((element) => ({element, points: [], ...element.dataset}));
// The milliseconds at which an event was seen. It is shown for a minute.
const events = {};
let polls = 0;
let before, jobs, busy;

const show = (name, value) => ($(`[data-figure="${name}"]`).textContent = format(value));

function showStates(states, now) {
	for (const name in events) if (now - events[name] < 60_000) states[name] = "";
	for (const element of all("[data-state]")) {
		const name = element.dataset.state;
		if (element.hidden || events[name] === now) $("time", element).textContent = new Date(now).toLocaleTimeString("en-GB");
		element.hidden = !(name in states);
		const detail = $("b", element);
		// A screen reader announces each change.
		if (detail.textContent !== states[name]) detail.textContent = states[name] ?? "";
	}
}

function current({chart, metric, label}, samples, now) {
	if (chart === "jobs") return sums((jobs ?? []).map((job) => ["job", 1, job]), "job", "state");
	if (chart === "gauges") return new Map(JSON.parse(metric).map(([name, gauge]) => [name, total(samples, gauge)]));
	// After a gap, rates would be averages of the gap.
	const elapsed = now - before?.time;
	if (!(elapsed < GAP)) return new Map();
	const grown = increase(sums(samples, metric, label), sums(before.samples, metric, label));
	return new Map(chart === "rates"
		? [...grown].map(([key, count]) => [key, (1000 * count) / elapsed])
		: [50, 95, 99].map((percent) => [`p${percent}`, quantile(percent / 100, grown) * 1000 || undefined]));
}

function showMetrics(samples, now) {
	const gauge = (name) => total(samples, `fieldbook_${name}`);
	const started = gauge("workers_started_total");
	const ended = started - gauge("workers");
	if (started < before?.started) events.restarted = now;
	else if (ended > before?.ended) events.ended = now;
	for (const element of all("[data-gauge]")) element.textContent = format(gauge(element.dataset.gauge));
	for (const chart of charts) {
		const values = current(chart, samples, now);
		chart.points = [...chart.points, {time: now, values}].slice(-300);
		draw(chart.element, chart.points);
		if (chart.total) show(chart.total, values.size ? sum(values.values()) : null);
		else if (chart.chart === "latency") for (const [name, value] of values) show(name, value);
	}
	before = {time: now, samples, started, ended};
}

function showHealth({status, nodes, quorum, pending_migrations: pending}, states) {
	show("quorum", quorum ? "yes" : "no");
	if (status !== "healthy") states[status] = "";
	else if (!quorum) states.quorum = "";
	if (nodes.down) states.down = `${nodes.down} of ${nodes.up + nodes.down}`;
	if (pending?.length) states.pending = pending.join(", ");
}

async function poll() {
	const now = Date.now();
	const states = {};
	const signal = AbortSignal.timeout(4000);
	const [metrics, health, listed] = await Promise.allSettled([
		call("GET", "/metrics", {headers: {Accept: "text/plain"}, signal}).then((response) => response.text()),
		fetch(`${root}/health`, {signal}).then((response) => response.json()),
		polls++ % 5 ? jobs : call("GET", "/jobs?limit=100", {signal}).then((response) => response.json()),
	]);
	jobs = listed.value;
	const error = metrics.reason;
	if (error) states[health.value ? "refused" : "unreachable"] = explain(error);
	else showMetrics(parse(metrics.value), now);
	if (health.value) showHealth(health.value, states);
	showStates(states, now);
}

// Not twice at the same time, and not in a hidden tab.
const tick = () => document.hidden || (busy ??= poll().finally(() => (busy = null)));

setInterval(tick, 2000);
document.addEventListener("visibilitychange", tick);
start(tick);
