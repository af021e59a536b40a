// The rows of a resource: choose, watch, download, change.

import {call, explain, Problem, start} from "./api.js";
import {$, ask, download, h} from "./dom.js";
import {createRow, deleteRow, editRow} from "./edit.js";
import {csv, fill, parse, text} from "./resource.js";
import {cell, rowTable} from "./rows.js";
import {can, root} from "./session.js";
import {readRows} from "./stream.js";

const page = $("#explorer");
const facts = JSON.parse(page.dataset.facts);
const routes = {...facts.routes, pages: facts.routes.pages ?? facts.routes.list};
const NAMES = {partition: "Rows of a partition", pages: "Pages", stream: "All rows", row: "One row"};
// No column or parameter has this name.
const VIEW = "explorer-view";
const INTEGERS = ["tinyint", "smallint", "int"];

const keys = [...facts.partition, ...Object.keys(facts.clustering)];
const mayWrite = (route) => Boolean(route) && !("readOnly" in page.dataset) && can(page.dataset.write);
const number = (value) => Math.round(value).toLocaleString("en");
const count = (rows) => `${number(rows)} ${rows === 1 ? "row" : "rows"}`;

const address = new URLSearchParams(location.search);
const asked = Object.keys(NAMES).filter((name) => routes[name]);
const view = h("select", {id: "view", onchange: () => fields({})},
  asked.map((name) => h("option", {value: name, selected: name === address.get(VIEW)}, NAMES[name])));
const inputs = h("div", {class: "toolbar"});
const problem = h("p", {class: "error", role: "alert"});
const progress = h("p", {id: "progress"});
const status = h("p", {id: "outcome", role: "status"});
const button = (label, onclick, hidden = false) => h("button", {type: "button", onclick, hidden}, label);
const stop = button("Stop", () => controller.abort());
const following = button("Next page", () => load(next));
const create = button("New row", async () => (await createRow(facts)) && submit(), true);
const saves = [
  button("Download CSV", () => save("csv", "text/csv", csv(facts, table.lines))),
  button("Download NDJSON", () => save("ndjson", "application/x-ndjson", table.lines.map((line) => `${line}\n`))),
];
const form = h("form", {onsubmit: (event) => {
  event.preventDefault();
  submit();
}},
  h("div", {class: "toolbar"}, h("div", {class: "field"}, h("label", {for: "view"}, "Show"), view), inputs,
    h("button", {class: "primary"}, "Show rows"), stop, following));
const table = rowTable(facts, details);

let controller;
let next;
let pages;
let isComplete;

/** What a column or a parameter accepts, in terms of JSON Schema. */
const columnSchema = (type) =>
  INTEGERS.includes(type) ? {type: "integer"} : ["float", "double"].includes(type) ? {type: "number"}
    : type === "boolean" ? {type} : {format: type};

function field(name, schema, hint, value, required) {
  const id = `field-${name}`;
  const attributes = {id, name, required, "aria-describedby": `${id}-hint ${id}-error`};
  const choices = schema.enum ?? (schema.type === "boolean" ? ["true", "false"] : null);
  const isNumber = ["integer", "number"].includes(schema.type);
  const input = choices
    ? h("select", attributes, ["", ...choices].map((each) => h("option", {value: each, selected: each === value}, each || "–")))
    : h("input", {...attributes, value, type: isNumber ? "number" : schema.format === "date" ? "date" : "text",
      min: schema.minimum, max: schema.maximum, step: isNumber && (schema.type === "integer" ? 1 : "any"),
      // A slash, "." or ".." in a key would lead to another route.
      pattern: required && !isNumber && "(?!\\.{1,2}$)[^\\/]+", title: required && "Not “.”, “..” or a text with “/”",
      placeholder: schema.default, autocomplete: "off"});
  const label = name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
  return h("div", {class: "field"}, h("label", {for: id}, label), input, h("small", {id: `${id}-hint`, class: "muted"}, hint),
    h("small", {id: `${id}-error`, class: "error"}));
}

/** Show the inputs of the chosen view. */
function fields(values) {
  const {path, parameters} = routes[view.value];
  inputs.replaceChildren(
    ...keys.filter((column) => path.includes(`{${column}}`)).map((column) =>
      field(column, columnSchema(facts.columns[column]), facts.columns[column], values[column] ?? facts.sample[column], true)),
    ...parameters.map(({name, schema, description}) =>
      field(name, isAll(name) ? {...schema, default: "all"} : schema, description, values[name], false)));
}

const isAll = (name) => view.value === "stream" && name === "limit";

/** Show the rows that the form asks for. */
function submit() {
  if (!form.reportValidity()) return;
  const values = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
  const {path, parameters} = routes[view.value];
  const query = new URLSearchParams();
  for (const {name} of parameters) {
    const value = values[name] ?? (isAll(name) ? Number.MAX_SAFE_INTEGER : "");
    if (value !== "") query.set(name, value);
  }
  history.replaceState(null, "", `?${new URLSearchParams({[VIEW]: view.value, ...values})}`);
  pages = 0;
  load(`${fill(facts, path, values)}${query.size ? "?" : ""}${query}`);
}

/** Read rows into the table. `next` is then the path of the next page, if there is one. */
async function load(path) {
  controller?.abort();
  const own = (controller = new AbortController());
  table.reset();
  pages += 1;
  next = null;
  isComplete = false;
  problem.textContent = "";
  for (const error of inputs.querySelectorAll(".error")) error.textContent = "";
  for (const input of form.elements) input.removeAttribute("aria-invalid");
  status.textContent = "Loading …";
  const began = performance.now();
  let frame;
  const update = () => {
    frame = null;
    const seconds = (performance.now() - began) / 1000;
    const rows = table.lines.length;
    progress.textContent = `${count(rows)}, ${number(rows / seconds)} rows a second, ${seconds.toFixed(1)} s`;
    table.draw();
  };
  const push = (lines) => {
    for (const line of lines) table.lines.push(line);
    frame ??= requestAnimationFrame(update);
  };
  buttons(true);
  let outcome;
  try {
    await read(path, own.signal, push);
    isComplete = true;
    const shown = pages > 1 || next ? `Page ${pages}` : "Complete";
    outcome = `${shown}: ${count(table.lines.length)}.${next ? " There are more." : ""}`;
  } catch (error) {
    if (own !== controller) return;
    outcome = `${own.signal.aborted ? "Stopped" : "Failed"}: the result is not complete.`;
    if (!own.signal.aborted) report(error);
  } finally {
    cancelAnimationFrame(frame);
  }
  if (own !== controller) return;
  update();
  status.textContent = outcome;
  const hadFocus = document.activeElement === stop;
  buttons(false);
  if (hadFocus) table.element.focus();
}

async function read(path, signal, push) {
  if (view.value === "row") return push([await (await call("GET", path, {signal})).text()]);
  if (routes[view.value] === facts.routes.pages) {
    const document_ = parse(await (await call("GET", path, {signal})).text());
    push(document_[facts.name].map((row) => JSON.stringify(row)));
    const url = new URL(path, location);
    url.searchParams.set("page_state", document_.page_state);
    next = document_.has_more && url.pathname + url.search;
  } else {
    const link = (await readRows(path, signal, push)).headers.get("Link");
    next = link && link.slice(1, link.indexOf(">")).slice(root.length);
  }
}

function report(error) {
  problem.textContent = table.lines.length ? "The connection broke. Show the rows again to retry." : explain(error);
  for (const {loc: [part, name], msg} of error instanceof Problem ? error.errors : []) {
    const input = ["path", "query"].includes(part) && form.elements[name];
    if (!input) continue;
    input.setAttribute("aria-invalid", "true");
    $(`#field-${name}-error`).textContent = msg;
  }
}

function buttons(isLoading) {
  stop.disabled = !isLoading;
  following.hidden = !["pages", "partition"].includes(view.value);
  following.disabled = isLoading || !next;
  for (const save_ of saves) save_.disabled = isLoading || !table.lines.length;
}

const save = (suffix, type, parts) => download(`${facts.name}${isComplete ? "" : "-incomplete"}.${suffix}`, type, parts);

/** Show all columns of a row. */
async function details(index) {
  const {lines} = table;
  const row = JSON.parse(lines[index]);
  const exact = parse(lines[index]);
  const close = (action) => () => dialog.close(action);
  const isEditable = facts.change || keys.every((key) => facts.create?.properties[key]);
  const dialog = h("dialog", {"aria-labelledby": "row-title"},
    h("h2", {id: "row-title"}, keys.map((key) => text(row[key])).join(" ")),
    h("dl", {}, Object.keys(facts.columns).flatMap((column) =>
      [h("dt", {}, column), h("dd", {dir: "auto"}, cell(facts, column, exact[column]))])),
    h("p", {class: "actions"},
      h("button", {onclick: close("edit"), hidden: !mayWrite(isEditable)}, "Edit"),
      h("button", {onclick: close("delete"), hidden: !mayWrite(facts.deletes), class: "danger"}, "Delete"),
      h("button", {onclick: close("")}, "Close")));
  const action = await ask(dialog);
  const stored = action === "edit" ? await editRow(facts, row)
    : action === "delete" && (await deleteRow(facts, row)) ? null : undefined;
  if (stored === undefined || table.lines !== lines) return;
  if (stored) lines[index] = JSON.stringify(stored);
  else lines.splice(index, 1);
  table.draw(true);
}

let isSignedIn;
page.append(form, problem, h("div", {class: "toolbar"}, progress, status), table.element,
  h("p", {class: "actions"}, create, saves));
fields(Object.fromEntries(address));
start(() => {
  create.hidden = !mayWrite(facts.create);
  // The token is renewed now and then: that is no reason to read the rows again.
  if (isSignedIn === (isSignedIn = can("read"))) return;
  if ([...inputs.querySelectorAll(":required")].every((input) => input.value)) submit();
});
