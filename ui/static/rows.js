import {$, h} from "./dom.js";
import {parse, text} from "./resource.js";

export function cell(facts, column, value) {
	const shown = value === null ? h("i", {class: "muted"}, "null") : text(value);
	if (!facts.links.includes(column)) return shown;
	const url = /^https?:/.test(value) && URL.parse(value);
	const missing = column.startsWith("image") ? h("span", {class: "no-image"}, "No image") : null;
	// The policy of the pages forbids requests to other hosts.
	const image = missing && url.origin === location.origin
		? h("img", {src: value, alt: "", onerror: () => image.replaceWith(missing)})
		: missing;
	return [image, url ? h("a", {href: value, rel: "noreferrer", target: "_blank"}, shown) : shown];
}

/** A table with elements only for the rows in view. Call `draw` after each change of `rows`, which are JSON. */
export function rowTable(grid, facts, open) {
	const [head, spacer] = grid.children;
	const [body] = spacer.children;
	const height = head.offsetHeight;
	const table = {rows: [], draw};
	let current = 0, drawn;
	grid.style.setProperty("--columns", facts.widths);

	const element = (row, index) =>
		h("div", {role: "row", id: `row-${index}`, "aria-rowindex": index + 2, "aria-selected": `${index === current}`},
			Object.keys(facts.columns).map((column) =>
				h("div", {role: "gridcell", dir: "auto"}, cell(facts, column, row[column]))));

	function draw() {
		const {length} = table.rows;
		current = Math.max(0, Math.min(current, length - 1));
		grid.ariaRowCount = length + 1;
		spacer.style.height = `${length * height}px`;
		const first = Math.floor(grid.scrollTop / height);
		// The style sheet limits the height of the grid.
		const rows = table.rows.slice(first, first + 32);
		body.style.transform = `translateY(${first * height}px)`;
		// A click needs the same element until its end.
		if (drawn === (drawn = `${first} ${current} ${rows}`)) return;
		body.replaceChildren(...rows.map((row, index) => element(parse(row), first + index)));
		grid.setAttribute("aria-activedescendant", $(`#row-${current}`)?.id ?? "");
	}

	grid.onscroll = draw;
	grid.onclick = ({target}) => {
		const row = target.closest("a, [aria-selected]");
		if (!row?.ariaSelected) return;
		current = row.ariaRowIndex - 2;
		draw();
		open(current);
	};
	grid.onkeydown = (event) => {
		const view = grid.clientHeight - height;
		const page = Math.floor(view / height);
		const step = {ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -1e9, End: 1e9, Enter: 0}[event.key];
		if (step === undefined || event.target !== grid || !table.rows.length) return;
		event.preventDefault();
		if (!step) return open(current);
		current += step;
		draw();
		const top = current * height;
		grid.scrollTop = Math.min(top, Math.max(grid.scrollTop, top + height - view));
	};
	return table;
}
