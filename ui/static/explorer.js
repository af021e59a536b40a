// The rows of a resource: choose, watch, download, change.

import {call, explain, start} from "./api.js";
import {$, download, h} from "./dom.js";
import {createRow, deleteRow, editRow} from "./edit.js";
import {csv, fill, parse} from "./resource.js";
import {cell, rowTable} from "./rows.js";
import {can, root} from "./session.js";
import {readRows} from "./stream.js";

const facts = JSON.parse($("#explorer").dataset.facts);
const form = $("#query");
const view = form.elements["explorer-view"];
const details = $("#details");
const table = rowTable($(".rows"), facts, show);
const number = (value) => Math.round(value).toLocaleString("en");

// What is loading or shown: the page, the path of the next page, a part of the names of files.
let controller, kind, page, next, suffix, isSignedIn;

const inputs = () => $("fieldset:enabled", form);
const say = (id, text) => ($(id).textContent = text);

/** Show the rows that the form asks for. */
function submit() {
  if (!form.reportValidity()) return;
  const {path, defaults} = inputs().dataset;
  const values = [...new FormData(form)].filter(([, value]) => value);
  history.replaceState(null, "", `?${new URLSearchParams(values)}`);
  const query = new URLSearchParams(defaults);
  for (const [name, value] of values) if (name !== view.name && !path.includes(`{${name}}`)) query.set(name, value);
  kind = view.value;
  page = 0;
  load(`${fill(facts, path, Object.fromEntries(values))}?${query}`);
}

async function load(path) {
  controller?.abort();
  const own = (controller = new AbortController());
  const began = performance.now();
  const rows = (table.rows = []);
  let frame;
  const update = () => {
    frame = null;
    const seconds = (performance.now() - began) / 1000;
    const rate = number(rows.length / seconds);
    say("#progress", `Rows: ${number(rows.length)}. Time: ${seconds.toFixed(1)} s. Rows a second: ${rate}.`);
    table.draw();
  };
  const add = (more) => {
    rows.push(...more);
    frame ??= requestAnimationFrame(update);
  };
  page++;
  next = null;
  suffix = "-incomplete";
  table.draw();
  $("#stop").ariaDisabled = "false";
  say("#outcome", "Loading …");
  say("#problem", "");
  for (const field of form.querySelectorAll("fieldset .field")) mark(field, "");
  const failure = await read(path, own.signal, add).catch((error) => error);
  cancelAnimationFrame(frame);
  if (own !== controller) return;
  update();
  let outcome = next || page > 1 ? `Page ${page}. ${next ? "There are more." : "It is the last one."}` : "Complete.";
  if (failure) outcome = `${own.signal.aborted ? "Stopped" : "Failed"}: the result is not complete.`;
  else suffix = "";
  if (failure && !own.signal.aborted) report(failure);
  say("#outcome", `${outcome} ${$("#progress").textContent}`);
  say("#progress", "");
  $("#stop").ariaDisabled = "true";
  $("#next").ariaDisabled = `${!next}`;
}

async function read(path, signal, add) {
  if (!["pages", "row"].includes(kind)) {
    const response = await readRows(path, signal, add);
    next = response.headers.get("Link")?.match(/<(.*)>/)[1].slice(root.length);
    return;
  }
  const found = parse(await (await call("GET", path, {signal})).text());
  add((kind === "row" ? [found] : found[facts.name]).map((row) => JSON.stringify(row)));
  const url = new URL(path, location);
  url.searchParams.set("page_state", found.page_state);
  next = found.has_more && url.pathname + url.search;
}

function mark(field, message) {
  $(".error", field).textContent = message;
  $("[name]", field).ariaInvalid = `${message !== ""}`;
}

function report(error) {
  say("#problem", explain(error));
  for (const {loc, msg} of error.errors ?? []) {
    const input = inputs().elements[loc[1]];
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
  table.draw();
}

const on = (id, run) => $(id)?.addEventListener("click", run);
on("#stop", () => controller?.abort());
on("#next", () => next && load(next));
on("#create", async () => (await createRow(facts)) && submit());
on("#csv", () => download(`${facts.name}${suffix}.csv`, "text/csv", csv(facts, table.rows)));
on("#ndjson", () => download(`${facts.name}${suffix}.ndjson`, "application/x-ndjson", table.rows.map((row) => `${row}\n`)));
view.addEventListener("change", () => {
  for (const each of form.querySelectorAll("fieldset")) each.disabled = each.name !== view.value;
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
start(() => {
  // The token is renewed now and then: that is no reason to read the rows again.
  if (isSignedIn !== (isSignedIn = can("read")) && form.checkValidity()) submit();
});
