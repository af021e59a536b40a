// Diagnostics: run probes, and compare those that send many queries.

import {$, h, svg} from "./dom.js";
import {call, explain} from "./api.js";

const named = (name) => name.replaceAll("_", " ");
const show = (value) =>
  typeof value === "object"
    ? h("pre", {tabindex: 0}, JSON.stringify(value, null, 2))
    : value.toLocaleString("en", {maximumSignificantDigits: 4});

/** Run the probe of a card. Return its findings, or nothing if it has failed. */
async function run(card, query = "") {
  const {busy, method, path} = card.dataset;
  if (busy) return;
  const stop = new AbortController();
  $(".stop", card).onclick = () => stop.abort();
  const began = performance.now();
  const say = (textContent, className = "") => Object.assign($("[role=status]", card), {textContent, className});
  const after = (what) => `${what} after ${show(performance.now() - began)} ms`;
  const result = $(".result", card);
  result.replaceChildren();
  say("Running …");
  card.dataset.busy = "yes";
  try {
    const response = await call(method, path + query, {signal: stop.signal});
    const {events = [], ...findings} = await response.json();
    const answered = after("Answered");
    say(answered, "good");
    result.append(
      h("ol", {}, ["Request sent", ...events, answered].map((event) => h("li", {}, named(event)))),
      h("dl", {}, Object.entries(findings).flatMap(([name, value]) => [h("dt", {}, named(name)), h("dd", {}, show(value))])));
    return findings;
  } catch (error) {
    say(stop.signal.aborted ? after("Stopped") : `${after("Failed")}: ${explain(error)}`, "error");
  } finally {
    delete card.dataset.busy;
  }
}

for (const card of document.querySelectorAll(".probe")) $(".run", card).onclick = () => run(card);

$("#compare")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const bars = [];
  for (const card of document.querySelectorAll("[data-compare]")) {
    const found = await run(card, `?requests=${$("#requests").value}`);
    if (!found) return;
    bars.push([found.requests_per_second, `${$("h3", card).textContent}: `, ` requests/s, ${show(found.total_time)} s`]);
  }
  const most = Math.max(...bars.map(([rate]) => rate));
  $("#chart").replaceChildren(...bars.flatMap(([rate, title, time], row) => [
    svg("text", {y: 52 * row + 16}, title, show(rate), time),
    svg("rect", {y: 52 * row + 24, height: 20, width: `${(100 * rate) / most}%`})]));
});
