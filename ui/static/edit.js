// Create, edit and delete rows.

import {call, explain, signIn} from "./api.js";
import {choose, compare} from "./conflict.js";
import {$, ask, notify} from "./dom.js";
import {clone, rowForm, same} from "./form.js";
import {rowPath} from "./resource.js";

// No answer, or no definite one. 409: the service still works on it.
const isUnsure = ({status}) => !(status < 500) || status === 409;

async function read(facts, row) {
  const response = await call("GET", rowPath(facts, row));
  return {row: await response.json(), etag: response.headers.get("ETag")};
}

// What the functions below return if the row can't be read.
function tell(error) {
  notify(explain(error), "error");
  return error.status === 404 ? null : undefined;
}

/** Show a dialog until `save` succeeds or the person cancels. Return what it returned, and the last error. */
async function submit(title, label, form, save) {
  const dialog = clone("edit");
  const message = $("[role=alert]", dialog);
  const [confirm, cancel] = dialog.querySelectorAll("button");
  let busy, saved, failure = {status: 0};
  $("h2", dialog).textContent = title;
  confirm.textContent = label;
  message.after(form.element);
  cancel.addEventListener("click", () => dialog.close());
  dialog.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return;
    busy = true;
    message.textContent = `${label} …`;
    form.show([]);
    failure = {};
    try {
      saved = await save();
      message.textContent = "";
      if (saved) dialog.close();
    } catch (error) {
      failure = error;
      const {errors, status} = error;
      message.textContent = errors?.length ? form.show(errors) : explain(error);
      if (isUnsure(error)) message.append(" The change may be stored nevertheless. You can repeat it safely.");
      if (status === 404) message.append(". Copy your values if you need them, and close the form.");
      if (status === 412) dialog.close();
      if (status === 401) signIn();
    }
    busy = false;
  });
  await ask(dialog);
  return [saved, failure];
}

/** Show the form for a new row. Return whether a row was, or may have been, created. */
export async function createRow(facts) {
  const form = rowForm("create");
  let key, sent;
  const [saved, failure] = await submit("New row", "Save", form, async () => {
    const json = form.body();
    // With the same key, the service creates no second row.
    if (!same(json, sent)) key = crypto.getRandomValues(new Uint32Array(4)).join("-");
    sent = json;
    await call("POST", facts.path, {json, headers: facts.versioned && {"Idempotency-Key": key}});
    notify("Created.");
    return true;
  });
  return saved ?? isUnsure(failure);
}

/** Show the form for a row. Return the stored row, null if it does not exist any more, undefined if nothing changed. */
export async function editRow(facts, row) {
  let stored = await read(facts, row).catch(tell);
  if (!stored) return stored;
  const {versioned} = facts;
  const form = versioned
    ? rowForm("change", stored.row)
    : rowForm("create", stored.row, [...facts.partition, ...Object.keys(facts.clustering)]);
  async function save(json) {
    const mine = {...stored.row, ...json};
    // Nothing was edited, or an earlier request without an answer was carried out.
    if (same(mine, stored.row)) return mine;
    try {
      const response = versioned
        ? await call("PATCH", rowPath(facts, row), {json, headers: {"If-Match": stored.etag}})
        : await call("POST", facts.path, {json});
      notify("Saved.");
      return versioned ? await response.json() : mine;
    } catch (error) {
      if (error.status !== 412) throw error;
      stored = await read(facts, row);
      const merged = {...stored.row, ...json};
      const choice = same(merged, stored.row) ? "mine" : await choose(merged, stored.row);
      if (choice === "mine") return save(json);
      if (choice) return stored.row;
      form.rebase(stored.row);
    }
  }
  const [saved, {status}] = await submit("Edit row", "Save", form, () => save(form.body(versioned && stored.row)));
  return saved ?? (status === 404 ? null : undefined);
}

/** Ask, and delete a row. Return whether it does not exist any more. */
export async function deleteRow(facts, row, before) {
  const stored = await read(facts, row).catch(tell);
  if (!stored) return stored === null;
  const [deleted, {status}] = await submit(
    before ? "Somebody else has changed this row. Delete it nevertheless?" : "Delete this row?",
    "Delete",
    {element: compare({...(before && {Before: before}), "Stored now": stored.row}), show() {}},
    async () => {
      await call("DELETE", rowPath(facts, row), {headers: facts.versioned && {"If-Match": stored.etag}});
      notify("Deleted.");
      return true;
    });
  return deleted ?? (status === 412 ? deleteRow(facts, row, stored.row) : false);
}
