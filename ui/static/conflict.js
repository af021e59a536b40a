// What to do when somebody else has changed a row.

import {ask, h} from "./dom.js";
import {same} from "./form.js";

const cell = (value) =>
  value === null || value === ""
    ? h("td", {}, h("em", {class: "muted"}, value === null ? "null" : "empty text"))
    : h("td", {dir: "auto"}, typeof value === "string" ? value : JSON.stringify(value));

/** A table of versions of a row: {heading: row}. */
export function compare(versions) {
  const rows = Object.values(versions);
  return h("div", {class: "versions", tabindex: 0, role: "region", "aria-label": "Values"}, h("table", {},
    h("tr", {}, ["Column", ...Object.keys(versions)].map((name) => h("th", {scope: "col"}, name))),
    Object.keys(rows[0]).map((column) => {
      const differs = rows.some((row) => !same(row[column], rows[0][column]));
      return h("tr", {class: differs && "differs"},
        h("th", {scope: "row"}, column, differs ? " ≠ differs" : ""),
        rows.map((row) => cell(row[column])));
    })));
}

/** Ask which version to keep; `theirs` is undefined if the row is gone. Return "mine", "theirs", or "" for the form. */
export const choose = (mine, theirs) => ask(h("dialog", {"aria-labelledby": "conflict"}, h("form", {method: "dialog"},
  h("h2", {id: "conflict"}, theirs ? "Somebody else has changed this row" : "This row does not exist any more"),
  h("p", {}, theirs
    ? "Nothing is saved yet. “Yours” has your changes; in all other columns it has what is stored now."
    : "Somebody has deleted it. You can go back to copy your values."),
  compare(theirs ? {Yours: mine, "Stored now": theirs} : {Yours: mine}),
  h("p", {class: "actions"},
    h("button", {value: "", autofocus: true}, "Back to the form"),
    h("button", {value: "theirs"}, theirs ? "Keep what is stored" : "Close the form"),
    theirs && h("button", {value: "mine", class: "danger"}, "Save mine anyway")))));
