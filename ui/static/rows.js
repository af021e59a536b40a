// A table that has elements only for the rows in view.

import {h} from "./dom.js";
import {parse, text} from "./resource.js";

// Pixels: browsers limit the height of an element. A longer table scrolls in larger steps.
const TALLEST = 10_000_000;

/** The content of a cell. */
export function cell(facts, column, value, tabindex) {
  const isLink = facts.links.includes(column);
  const missing = isLink && column.startsWith("image") ? h("span", {class: "no-image"}, "No image") : null;
  if (value === null) return missing ?? h("i", {class: "muted"}, "null");
  const shown = text(value);
  if (!isLink || !/^https?:/.test(shown) || !URL.canParse(shown)) return shown;
  const link = h("a", {href: shown, rel: "noreferrer", target: "_blank", tabindex}, shown);
  // The policy of the pages forbids requests to other hosts.
  if (!missing || new URL(shown).origin !== location.origin) return [missing, link];
  return [h("img", {src: shown, alt: "", onerror: (event) => event.target.replaceWith(missing)}), link];
}

/** Fill the grid. `rows` are JSON; call `draw` after each change. `open` gets the index of a row. */
export function rowTable(grid, facts, open) {
  const [head, spacer] = grid.children;
  const [body] = spacer.children;
  const height = head.offsetHeight;
  const table = {rows: [], draw, reset};
  let current = 0;
  let drawn;
  grid.style.setProperty("--columns", facts.widths);

  // Pixels in view, and above them.
  const measure = () => {
    const view = grid.clientHeight - height;
    const ratio = Math.max(1, (table.rows.length * height - view) / (TALLEST - view));
    return {view, ratio, above: grid.scrollTop * ratio};
  };
  const element = (index) => {
    const row = parse(table.rows[index]);
    const cells = Object.keys(facts.columns).map((column) =>
      h("div", {role: "gridcell", dir: "auto"}, cell(facts, column, row[column], -1)));
    return h("div", {role: "row", id: `row-${index}`, "aria-rowindex": index + 2, "aria-selected": `${index === current}`}, cells);
  };

  function draw(hasChanged) {
    const {length} = table.rows;
    spacer.style.height = `${Math.min(length * height, TALLEST)}px`;
    grid.ariaRowCount = length + 1;
    current = Math.max(0, Math.min(current, length - 1));
    const {view, above} = measure();
    const first = Math.floor(above / height);
    const last = Math.min(length, first + Math.ceil(view / height) + 1);
    body.style.transform = `translateY(${grid.scrollTop + first * height - above}px)`;
    if (drawn === (drawn = `${first} ${last} ${current}`) && !hasChanged) return;
    body.replaceChildren(...Array.from({length: last - first}, (_, index) => element(first + index)));
    grid.setAttribute("aria-activedescendant", current >= first && current < last ? `row-${current}` : "");
  }

  function reset() {
    table.rows = [];
    grid.scrollTop = current = 0;
    draw(true);
  }

  grid.addEventListener("scroll", () => draw());
  new ResizeObserver(() => draw()).observe(grid);
  grid.addEventListener("click", ({target}) => {
    const row = !target.closest("a") && target.closest("[aria-selected]");
    if (row) open((current = row.ariaRowIndex - 2));
  });
  grid.addEventListener("keydown", (event) => {
    const {view, ratio, above} = measure();
    const page = Math.floor(view / height);
    const step = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9, Enter: 0}[event.key];
    if (step === undefined || event.target !== grid || !table.rows.length) return;
    event.preventDefault();
    if (!step) return open(current);
    current = Math.max(0, Math.min(table.rows.length - 1, current + step));
    const top = current * height;
    grid.scrollTop = Math.min(top, Math.max(above, top + height - view)) / ratio;
    draw();
  });
  return table;
}
