// Create, edit and delete rows.

import {call, explain, signIn} from "./api.js";
import {choose, compare} from "./conflict.js";
import {ask, h, notify} from "./dom.js";
import {rowForm, same} from "./form.js";
import {rowPath} from "./resource.js";

// Without a definite answer, the service may have stored the row. 409: it is still at it.
const isUnsure = ({status}) => !(status < 500) || status === 409;

/** The stored row and its ETag, null if there is none. */
async function read(facts, row) {
  try {
    const response = await call("GET", rowPath(facts, row));
    return {row: await response.json(), etag: response.headers.get("ETag")};
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

/** As `read`, with messages; undefined after an error. */
async function find(facts, row) {
  try {
    const stored = await read(facts, row);
    if (!stored) notify("The row does not exist any more.");
    return stored;
  } catch (error) {
    notify(explain(error), "error");
  }
}

/** Show a dialog until `save` returns [result], or the person cancels: then return whether a change may be stored. */
async function submit(title, label, content, save, form) {
  const message = h("p", {class: "error", role: "alert"});
  const abort = new AbortController();
  let busy, unsure, result;
  async function run(event) {
    event.preventDefault();
    if (busy) return;
    busy = true;
    message.textContent = "";
    form?.show([]);
    try {
      result = await save(abort.signal);
      if (result) dialog.close();
    } catch (error) {
      const {errors = []} = error;
      message.textContent = errors.length
        ? form?.show(errors).join(" ") || "Correct the marked fields."
        : explain(error);
      if (isUnsure(error)) {
        unsure = true;
        message.append(" The change may be stored nevertheless. You can safely try again if you change nothing else.");
      }
      if (error.status === 401) signIn();
    }
    busy = false;
  }
  const dialog = h("dialog", {"aria-labelledby": "edit"}, h("form", {novalidate: true, onsubmit: run},
    h("h2", {id: "edit"}, title),
    message,
    content,
    h("p", {class: "actions"},
      h("button", {class: form ? "primary" : "danger"}, label),
      h("button", {type: "button", autofocus: !form, onclick: () => dialog.close()}, "Cancel"))));
  await ask(dialog);
  abort.abort();
  return result ?? Boolean(busy || unsure);
}

/** Show the form for a new row. Return whether a row was, or may have been, created. */
export async function createRow(facts) {
  const form = rowForm(facts, facts.create);
  let key, sent;
  const result = await submit("New row", "Save", form.element, async (signal) => {
    const json = form.body();
    // With the same key, the service creates no second row.
    if (!same(json, sent)) key = crypto.getRandomValues(new Uint32Array(4)).join("-");
    sent = json;
    try {
      await call("POST", facts.path, {json, signal, headers: facts.versioned && {"Idempotency-Key": key}});
    } catch (error) {
      if (!isUnsure(error)) sent = null;
      throw error;
    }
    notify("Created.");
    return [true];
  }, form);
  return Boolean(result);
}

/** Show the form for a row. Return the stored row, null if it does not exist any more, undefined if nothing changed. */
export async function editRow(facts, row) {
  const {versioned} = facts;
  let stored = await find(facts, row);
  if (!stored) return stored;
  const form = versioned
    ? rowForm(facts, facts.change, stored.row)
    : rowForm(facts, facts.create, stored.row, [...facts.partition, ...Object.keys(facts.clustering)]);
  const note = versioned ? "" : "Save replaces the whole row, also what others change meanwhile.";
  async function save(signal, json = form.body(versioned)) {
    if (!Object.keys(json).length) return [];
    try {
      const response = versioned
        ? await call("PATCH", rowPath(facts, row), {json, signal, headers: {"If-Match": stored.etag}})
        : await call("POST", facts.path, {json, signal});
      notify("Saved.");
      return [versioned ? await response.json() : {...stored.row, ...json}];
    } catch (error) {
      if (!versioned || ![404, 412].includes(error.status)) throw error;
      const current = await read(facts, row);
      const mine = {...(current ?? stored).row, ...json};
      // A request without an answer was carried out.
      if (same(mine, current?.row)) return [mine];
      const choice = await choose(mine, current?.row);
      if (choice === "theirs") return [current && current.row];
      if (current) stored = current;
      if (choice) return save(signal, json);
      if (current) form.rebase(current.row);
    }
  }
  const result = await submit("Edit row", "Save", h("div", {}, note, form.element), save, form);
  if (result !== true) return result ? result[0] : undefined;
  stored = await find(facts, row);
  return stored && stored.row;
}

/** Ask, and delete a row. Return whether it does not exist any more. */
export async function deleteRow(facts, row) {
  let stored = await find(facts, row);
  if (!stored) return stored === null;
  const content = h("div", {}, compare({Value: stored.row}));
  const result = await submit("Delete this row?", "Delete", content, async (signal) => {
    try {
      await call("DELETE", rowPath(facts, row), {signal, headers: facts.versioned && {"If-Match": stored.etag}});
    } catch (error) {
      if (error.status !== 412) throw error;
      const current = await read(facts, row);
      if (current) {
        const versions = compare({Before: stored.row, "Stored now": current.row});
        content.replaceChildren(h("p", {role: "alert"}, "Somebody else has changed this row. Delete it nevertheless?"), versions);
        versions.focus();
        stored = current;
        return;
      }
    }
    notify("Deleted.");
    return [true];
  });
  return result === true ? (await find(facts, row)) === null : Boolean(result);
}
