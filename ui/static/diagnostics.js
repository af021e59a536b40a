import {$, h} from "./dom.js";
import {call, explain} from "./api.js";

const named = (name) => name.replaceAll("_", " ");
const show = (value) =>
	typeof value === "object"
		? h("pre", {tabindex: 0}, JSON.stringify(value, null, 2))
		: value.toLocaleString("en", {maximumSignificantDigits: 4});

/** Run the probe of a card. Return its findings, if any. */
async function run(card, query = "") {
	const {busy, method, path} = card.dataset;
	if (busy) return;
	const stop = new AbortController();
	$(".stop", card).onclick = () => stop.abort();
	const began = performance.now();
	const say = (words) => ($("[role=status]", card).textContent = words);
	const after = (what) => `${what} after ${show(performance.now() - began)} ms`;
	const result = $(".result", card);
	result.replaceChildren();
	say("Running …");
	card.dataset.busy = "yes";
	try {
		const {events = [], ...findings} = await (await call(method, path + query, {signal: stop.signal})).json();
		const answered = say(after("Answered"));
		result.append(
			h("ol", {}, ["Request sent", ...events, answered].map((event) => h("li", {}, named(event)))),
			h("dl", {}, Object.entries(findings).flatMap(([name, value]) =>
				[h("dt", {}, named(name)), h("dd", {}, show(value))])));
		return findings;
	} catch (error) {
		say(stop.signal.aborted ? after("Stopped") : `${after("Failed")}: ${explain(error)}`);
	} finally {
		delete card.dataset.busy;
	}
}

for (const card of document.querySelectorAll(".probe")) $(".run", card).onclick = () => run(card);

$("#compare").onsubmit = async (event) => {
	event.preventDefault();
	const bars = [];
	for (const card of document.querySelectorAll("[data-compare]")) {
		const found = await run(card, `?requests=${$("#requests").value}`);
		if (!found) return;
		const {requests_per_second: rate, total_time: time} = found;
		bars.push([rate, `${$("h3", card).textContent}: ${show(rate)} requests/s, ${show(time)} s`]);
	}
	const max = Math.max(...bars.map(([value]) => value));
	$("#chart").replaceChildren(...bars.map(([value, text]) => h("label", {}, text, h("meter", {value, max}))));
};
