// A table that has elements only for the rows in view, so that it stays fast with many rows.

import {h} from "./dom.js";
import {parse, text} from "./resource.js";

// Browsers limit the height of an element. A longer table scrolls in larger steps.
const TALLEST = 10_000_000;
// Width in rem, by CQL type.
const WIDTHS = {uuid: 21, timeuuid: 21, timestamp: 14, tinyint: 6, smallint: 6, int: 7, boolean: 6};

/** The content of a cell. */
export function cell(facts, column, value, tabindex) {
  const isImage = column.startsWith("image") && facts.links.includes(column);
  const missing = () => isImage && h("span", {class: "no-image"}, "No image");
  if (value === null) return [missing() || h("i", {class: "muted"}, "null")];
  const shown = text(value);
  if (!facts.links.includes(column) || !/^https?:/.test(shown) || !URL.canParse(shown)) return [shown];
  const link = h("a", {href: shown, rel: "noreferrer", target: "_blank", tabindex}, shown);
  // The policy of the pages forbids requests to other hosts.
  if (!isImage || new URL(shown).origin !== location.origin) return [missing() || null, link];
  const image = h("img", {src: shown, alt: "", onerror: () => image.replaceWith(missing())});
  return [image, link];
}

/** Create the table. `lines` has the rows as JSON; call `draw` after each change. `open` gets the index of a row. */
export function rowTable(facts, open) {
  const columns = Object.keys(facts.columns);
  const height = 2 * parseFloat(getComputedStyle(document.documentElement).fontSize);
  const head = h("div", {role: "row", class: "row head", "aria-rowindex": 1},
    columns.map((column) => h("div", {role: "columnheader"}, column)));
  const body = h("div", {role: "rowgroup"});
  const spacer = h("div", {class: "spacer"}, body);
  const element = h("div", {role: "grid", class: "rows", tabindex: 0, "aria-label": "Rows. Press Enter for details.",
    "aria-colcount": columns.length}, h("div", {role: "rowgroup", class: "sticky"}, head), spacer);
  const widths = columns.map((column) => WIDTHS[facts.columns[column]] ?? 12);
  element.style.setProperty("--columns", widths.map((width) => `minmax(${width}rem, ${width}fr)`).join(" "));
  const table = {element, lines: [], draw, reset};
  let current = 0;
  let drawn = "";

  /** Rows in view; pixels of all rows, and of the first row in view, as if the element had its full height. */
  function measure() {
    const view = element.clientHeight - head.offsetHeight;
    const total = table.lines.length * height;
    const ratio = total > TALLEST ? (total - view) / (TALLEST - view) : 1;
    return {view, total, ratio, offset: element.scrollTop * ratio};
  }

  function row(index) {
    const values = parse(table.lines[index]);
    return h("div", {role: "row", class: "row", id: `row-${index}`, "aria-rowindex": index + 2,
      "aria-selected": String(index === current)},
      columns.map((column) => h("div", {role: "gridcell", dir: "auto"}, cell(facts, column, values[column], -1))));
  }

  function draw(changed = false) {
    const {view, total, offset} = measure();
    spacer.style.height = `${Math.min(total, TALLEST)}px`;
    element.setAttribute("aria-rowcount", table.lines.length + 1);
    const first = Math.floor(offset / height);
    const last = Math.min(table.lines.length, Math.ceil((offset + view) / height) + 1);
    body.style.transform = `translateY(${element.scrollTop + first * height - offset}px)`;
    const now = `${first} ${last} ${current}`;
    if (now === drawn && !changed) return;
    drawn = now;
    body.replaceChildren(...Array.from({length: Math.max(0, last - first)}, (_, index) => row(first + index)));
    const isShown = current >= first && current < last;
    if (isShown) element.setAttribute("aria-activedescendant", `row-${current}`);
    else element.removeAttribute("aria-activedescendant");
  }

  function reset() {
    table.lines = [];
    element.scrollTop = current = 0;
    draw(true);
  }

  element.addEventListener("scroll", () => draw());
  new ResizeObserver(() => draw()).observe(element);
  element.addEventListener("click", ({target}) => {
    const found = target.closest("a") ? null : target.closest("[aria-selected]");
    if (found) open((current = found.ariaRowIndex - 2));
  });
  element.addEventListener("keydown", (event) => {
    const {view, offset, ratio} = measure();
    const page = Math.max(1, Math.floor(view / height) - 1);
    const {key, target} = event;
    const step = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity}[key];
    if (target !== element || !table.lines.length || (!step && key !== "Enter")) return;
    event.preventDefault();
    if (!step) return open(current);
    current = Math.max(0, Math.min(table.lines.length - 1, current + step));
    const top = current * height;
    element.scrollTop = Math.min(top, Math.max(offset, top + height - view)) / ratio;
    draw();
  });
  return table;
}
