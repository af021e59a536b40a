import {explain, start} from "./api.js";
import {$, download, h} from "./dom.js";
import {createRow, deleteRow, editRow} from "./edit.js";
import {csv, fill, parse, text} from "./resource.js";
import {cell, rowTable} from "./rows.js";
import {root} from "./session.js";
import {readRows} from "./stream.js";

const facts = JSON.parse($("#explorer").dataset.facts);
const form = $("#query");
const view = form.elements["explorer-view"];
const details = $("#details");
const table = rowTable($(".rows"), facts, show);

// The latest request, and the number of its page.
let latest = {suffix: ""};
let page;

const number = (value) => Math.round(value).toLocaleString("en");
const say = (id, words) => ($(id).textContent = words);
const on = (id, run) => $(id)?.addEventListener("click", run);

form.onsubmit = (event) => {
  event.preventDefault();
  const {path, defaults} = $("fieldset:enabled", form).dataset;
  const values = [...new FormData(form)].filter(([, value]) => value);
  history.replaceState(null, "", `?${new URLSearchParams(values)}`);
  const query = new URLSearchParams(defaults);
  for (const [name, value] of values) if (name !== view.name && !path.includes(`{${name}}`)) query.set(name, value);
  page = 0;
  load(`${fill(facts, path, Object.fromEntries(values))}?${query}`);
};

async function load(path) {
  latest.controller?.abort();
  // `next` is the path of the next page.
  const own = (latest = {controller: new AbortController(), next: null, suffix: "-incomplete"});
  const began = performance.now();
  const rows = table.reset();
  let frame;
  const update = () => {
    frame = null;
    const seconds = (performance.now() - began) / 1000;
    const rate = number(rows.length / seconds);
    table.draw();
    return say("#progress", `Rows: ${number(rows.length)}. Time: ${seconds.toFixed(1)} s. Rows a second: ${rate}.`);
  };
  const add = (more) => {
    rows.push(...more);
    frame ??= requestAnimationFrame(update);
  };
  page++;
  $("#stop").ariaDisabled = "false";
  say("#outcome", "Loading …");
  const failure = await read(path, own, add).catch((error) => error);
  cancelAnimationFrame(frame);
  if (own !== latest) return;
  const {next, controller: {signal}} = own;
  let outcome = next || page > 1 ? `Page ${page}. ${next ? "There are more." : "It is the last one."}` : "Complete.";
  if (failure) outcome = `${signal.aborted ? "Stopped" : "Failed"}: the result is not complete.`;
  else own.suffix = "";
  say("#outcome", `${outcome} ${update()}`);
  say("#progress", "");
  say("#problem", failure && !signal.aborted ? explain(failure) : "");
  const errors = Object.fromEntries((failure?.errors ?? []).map(({loc, msg}) => [loc[1], msg]));
  for (const input of $("fieldset:enabled", form).elements) {
    input.ariaInvalid = `${input.name in errors}`;
    input.parentElement.lastElementChild.textContent = errors[input.name];
  }
  $("#stop").ariaDisabled = "true";
  $("#next").ariaDisabled = `${!next}`;
}

async function read(path, own, add) {
  const {headers, rest} = await readRows(path, own.controller.signal, add);
  own.next = headers.get("Link")?.match(/<(.*)>/)[1].slice(root.length);
  if (!rest) return;
  // One row, or a page with `page_state`.
  const found = parse(rest);
  add([found[facts.name] ?? found].flat().map(text));
  if (found.has_more) own.next = `${path.replace(/&page_state=.*/, "")}&page_state=${found.page_state}`;
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
  const values = JSON.parse(rows[index]);
  const {returnValue} = details;
  const stored = returnValue === "edit" ? await editRow(facts, values)
    : returnValue && (await deleteRow(facts, values)) ? null : undefined;
  if (stored === undefined) return;
  rows.splice(index, 1, ...(stored ? [text(stored)] : []));
  table.draw();
}

on("#stop", () => latest.controller?.abort());
on("#next", () => latest.next && load(latest.next));
on("#create", async () => (await createRow(facts)) && form.requestSubmit());
const save = (type, lines) => download(`${facts.name}${latest.suffix}.${type}`, `text/${type}`, lines);
on("#csv", () => save("csv", csv(facts, table.rows)));
on("#ndjson", () => save("ndjson", table.rows.map((row) => `${row}\n`)));
view.onchange = () => {
  for (const each of form.querySelectorAll("fieldset")) each.disabled = each.name !== view.value;
};
start(() => form.checkValidity() && form.requestSubmit());
