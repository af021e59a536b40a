// Line charts of the last 10 minutes.

import {$, h, svg} from "./dom.js";

/** Milliseconds that interrupt a line. */
export const GAP = 10_000;

export const format = (value) => value?.toLocaleString("en", {maximumSignificantDigits: 3}) ?? "–";
export const sum = (values) => [...values].reduce((all, value) => all + (value ?? 0), 0);

/** The lines to draw, [name, values]: the four largest, and the sum of the others. */
function choose(points) {
	const names = new Set(points.flatMap(({values}) => [...values.keys()]));
	const lines = [...names].map((name) => [name, points.map(({values}) => values.get(name))]);
	lines.sort(([, a], [, b]) => sum(b) - sum(a));
	const others = lines.splice(lines.length > 5 ? 4 : 5);
	lines.sort(([a], [b]) => (a < b ? -1 : 1));
	if (others.length) lines.push(["other", points.map((_, index) => sum(others.map(([, values]) => values[index])))]);
	return lines;
}

/** Draw points, {time, values}: a Map of numbers by the name of the line. */
export function draw(element, points) {
	const lines = choose(points);
	const highest = Math.max(0, ...lines.flatMap(([, values]) => values.filter(Boolean)));
	const now = points.at(-1).time;

	const path = (values) => {
		let last;
		return points.map(({time}, index) => {
			if (values[index] == null) return "";
			const at = `${600 - (now - time) / 1000} ${100 - (values[index] / highest || 0) * 100}`;
			const begin = time - last < GAP ? "" : `M${at}`;
			last = time;
			return `${begin}L${at}`;
		}).join("");
	};
	const line = (index, d) => svg("path", {class: `line${index}`, d});
	$(".top", element).textContent = format(highest);
	const legend = lines.map(([name, values]) => `${name}: ${format(values.at(-1))}`);
	$("svg", element).replaceChildren(svg("desc", {}, `Now ${legend.join(", ") || "nothing"}. Maximum: ${format(highest)}.`),
		...lines.map(([, values], index) => line(index, path(values))));
	$("ul", element).replaceChildren(...legend.map((text, index) =>
		h("li", {}, svg("svg", {viewBox: "0 0 24 8", "aria-hidden": "true"}, line(index, "M0 4H24")), text)));
}
