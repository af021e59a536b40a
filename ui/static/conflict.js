// Versions of a row.

import {$, ask, h} from "./dom.js";
import {clone, same} from "./form.js";

/** A table of one or two versions of a row: {heading: row}. */
export function compare(versions) {
  const rows = Object.values(versions);
  return h("div", {class: "versions", tabindex: 0, role: "region", "aria-label": "Values"}, h("table", {},
    h("tr", {}, ["Column", ...Object.keys(versions)].map((name) => h("th", {scope: "col"}, name))),
    Object.keys(rows[0]).map((column) => {
      const values = rows.map((row) => row[column]);
      const differs = !same(values[0], values.at(-1));
      return h("tr", {class: differs && "differs"},
        h("th", {scope: "row"}, column, differs ? " ≠ differs" : ""),
        values.map((value) => h("td", {dir: "auto"},
          value === null ? h("em", {}, "null") : typeof value === "string" ? value : JSON.stringify(value))));
    })));
}

/** Ask which version to keep. Return "mine", "theirs", or "" for back to the form. */
export function choose(mine, theirs) {
  const dialog = clone("conflict");
  $("p", dialog).after(compare({Yours: mine, "Stored now": theirs}));
  return ask(dialog);
}
