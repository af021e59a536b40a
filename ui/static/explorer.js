// The rows of a resource: choose, watch, download, change.

import {call, explain, start} from "./api.js";
import {$, download, h} from "./dom.js";
import {createRow, deleteRow, editRow} from "./edit.js";
import {csv, fill, parse} from "./resource.js";
import {cell, rowTable} from "./rows.js";
import {can, root} from "./session.js";
import {readRows} from "./stream.js";

const facts = JSON.parse($("#explorer").dataset.facts);
const [form, stop, following, progress, outcome, problem, details] =
  ["query", "stop", "next", "progress", "outcome", "problem", "details"].map((id) => $(`#${id}`));
const view = form.elements["explorer-view"];
const table = rowTable($(".rows"), facts, show);
const number = (value) => Math.round(value).toLocaleString("en");
const count = () => `${number(table.rows.length)} ${table.rows.length === 1 ? "row" : "rows"}`;

let controller;
let next;
let pages;
let suffix;
let kind;
let isSignedIn;

/** Enable the inputs of the chosen view. */
function choose() {
  for (const each of form.querySelectorAll("fieldset")) each.disabled = each.name !== view.value;
}

/** Show the rows that the form asks for. */
function submit() {
  if (!form.reportValidity()) return;
  const {path, defaults} = $("fieldset:enabled", form).dataset;
  const values = [...new FormData(form)].filter(([, value]) => value);
  history.replaceState(null, "", `?${new URLSearchParams(values)}`);
  const query = new URLSearchParams(defaults);
  for (const [name, value] of values) if (name !== view.name && !path.includes(`{${name}}`)) query.set(name, value);
  pages = 0;
  kind = view.value;
  load(`${fill(facts, path, Object.fromEntries(values))}?${query}`);
}

async function load(path) {
  controller?.abort();
  const own = (controller = new AbortController());
  const began = performance.now();
  let frame;
  const update = () => {
    frame = null;
    const seconds = (performance.now() - began) / 1000;
    progress.textContent = `${count()}, ${number(table.rows.length / seconds)} rows a second, ${seconds.toFixed(1)} s`;
    table.draw();
  };
  const push = (rows) => {
    if (own !== controller) return;
    table.rows.push(...rows);
    frame ??= requestAnimationFrame(update);
  };
  table.reset();
  pages++;
  next = null;
  suffix = "-incomplete";
  stop.ariaDisabled = "false";
  outcome.textContent = "Loading …";
  problem.textContent = "";
  for (const field of form.querySelectorAll("fieldset .field")) mark(field, "");
  let result;
  try {
    await read(path, own.signal, push);
    suffix = "";
    result = `${next || pages > 1 ? `Page ${pages}` : "Complete"}: ${count()}.${next ? " There are more." : ""}`;
  } catch (error) {
    if (own !== controller) return;
    result = `${own.signal.aborted ? "Stopped" : "Failed"} after ${count()}: the result is not complete.`;
    if (!own.signal.aborted) report(error);
  }
  update();
  outcome.textContent = result;
  stop.ariaDisabled = "true";
  following.ariaDisabled = `${!next}`;
}

/** Read rows. `next` is then the path of the next page, if there is one. */
async function read(path, signal, push) {
  if (["partition", "list", "stream"].includes(kind)) {
    const response = await readRows(path, signal, push);
    next = response.headers.get("Link")?.match(/<(.*)>/)[1].slice(root.length);
    return;
  }
  const found = parse(await (await call("GET", path, {signal})).text());
  push((kind === "row" ? [found] : found[facts.name]).map((row) => JSON.stringify(row)));
  const url = new URL(path, location);
  url.searchParams.set("page_state", found.page_state);
  next = found.has_more && url.pathname + url.search;
}

function mark(field, message) {
  $(".error", field).textContent = message;
  $("[name]", field).ariaInvalid = `${message !== ""}`;
}

function report(error) {
  problem.textContent = explain(error);
  for (const {loc, msg} of error.errors ?? []) {
    const input = $("fieldset:enabled", form).elements[loc[1]];
    if (input) mark(input.parentElement, msg);
  }
}

/** Show all columns of a row. */
async function show(index) {
  const {rows} = table;
  const row = parse(rows[index]);
  $("dl", details).replaceChildren(...Object.keys(facts.columns).flatMap((column) =>
    [h("dt", {}, column), h("dd", {dir: "auto"}, cell(facts, column, row[column]))]));
  details.returnValue = "";
  details.showModal();
  await new Promise((resolve) => details.addEventListener("close", resolve, {once: true}));
  let stored;
  if (details.returnValue === "edit") stored = await editRow(facts, JSON.parse(rows[index]));
  if (details.returnValue === "delete" && (await deleteRow(facts, JSON.parse(rows[index])))) stored = null;
  if (stored === undefined) return;
  rows.splice(index, 1, ...(stored ? [JSON.stringify(stored)] : []));
  table.draw(true);
}

const on = (id, run) => $(id)?.addEventListener("click", run);
on("#stop", () => controller.abort());
on("#next", () => next && load(next));
on("#create", async () => (await createRow(facts)) && submit());
on("#csv", () => download(`${facts.name}${suffix}.csv`, "text/csv", csv(facts, table.rows)));
on("#ndjson", () => download(`${facts.name}${suffix}.ndjson`, "application/x-ndjson", table.rows.map((row) => `${row}\n`)));
view.addEventListener("change", choose);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
start(() => {
  // The token is renewed now and then: that is no reason to read the rows again.
  if (isSignedIn !== (isSignedIn = can("read")) && form.checkValidity()) submit();
});
