// Diagnostics: run the probes, and compare those that send the same queries in different ways.

import {$, h, svg} from "./dom.js";
import {call, explain} from "./api.js";

const named = (name) => name.replaceAll("_", " ");
const show = (value) =>
  value === Object(value)
    ? h("details", {}, h("summary", {}, "Show"), h("pre", {tabindex: 0}, JSON.stringify(value, null, 2)))
    : {true: "yes", false: "no", null: "none"}[value] ?? value.toLocaleString("en", {maximumSignificantDigits: 4});

/** Run the probe of a card. Return its findings, or nothing if it has failed. */
async function run(card, query = "") {
  const {busy, method, path} = card.dataset;
  if (busy) return;
  const stop = new AbortController();
  $(".stop", card).onclick = () => stop.abort();
  const began = performance.now();
  const time = () => `${show(performance.now() - began)} ms`;
  const say = (textContent, className) => Object.assign($("[role=status]", card), {textContent, className});
  const result = $(".result", card);
  result.replaceChildren();
  say("Running …", "");
  card.dataset.busy = "yes";
  try {
    const response = await call(method, path + query, {signal: stop.signal});
    const {events = [], ...findings} = await response.json();
    const took = time();
    const timeline = [["request sent", "0 ms"], ...events.map((event) => [event]), ["response received", took]];
    say(`Answered after ${took}.`, "good");
    result.append(
      h("ol", {}, timeline.map(([event, at]) => h("li", {}, named(event), at && h("time", {}, at)))),
      h("dl", {}, Object.entries(findings).flatMap(([name, value]) => [h("dt", {}, named(name)), h("dd", {}, show(value))])));
    return findings;
  } catch (error) {
    say(stop.signal.aborted ? `Stopped after ${time()}.` : `Failed after ${time()}: ${explain(error)}`, "error");
  } finally {
    delete card.dataset.busy;
  }
}

/** A bar for each [title, findings]. */
function chart(results) {
  const rates = results.map(([, found]) => found.requests_per_second);
  const labels = results.map(([title, found], row) => `${title}: ${show(rates[row])} requests/s, ${show(found.total_time)} s`);
  const bars = labels.flatMap((label, row) => [
    svg("text", {y: 52 * row + 16}, label),
    svg("rect", {y: 52 * row + 24, height: 20, width: `${(100 * rates[row]) / Math.max(...rates)}%`})]);
  return svg("svg", {role: "img", "aria-label": labels.join("; "), width: "100%", height: 52 * rates.length}, bars);
}

for (const card of document.querySelectorAll(".probe")) $(".run", card).onclick = () => run(card);

$("#compare")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const results = [];
  for (const card of document.querySelectorAll("[data-compare]")) {
    const found = await run(card, `?requests=${$("#requests").value}`);
    if (!found) return;
    results.push([$("h3", card).textContent, found]);
  }
  $("#chart").replaceChildren(chart(results));
});
