// Line charts of the last 10 minutes.

import {$, h, svg} from "./dom.js";

// Milliseconds without figures that are a gap in a line.
const GAP = 10_000;

const short = new Intl.NumberFormat("en", {maximumSignificantDigits: 3});
export const format = (value) => (value == null ? "–" : short.format(value));

/** The lines to draw, [name, values]: the four largest, and the sum of the others. */
function choose(points) {
  const sizes = new Map();
  for (const [name, value] of points.flatMap(({values}) => [...values])) {
    sizes.set(name, (sizes.get(name) ?? 0) + (value ?? 0));
  }
  const names = [...sizes.keys()].sort((a, b) => sizes.get(b) - sizes.get(a));
  const others = names.splice(names.length > 5 ? 4 : 5);
  const lines = names.sort().map((name) => [name, points.map(({values}) => values.get(name))]);
  const sum = ({values}) => others.reduce((all, name) => all + (values.get(name) ?? 0), 0);
  return others.length ? [...lines, ["other", points.map(sum)]] : lines;
}

/** Draw points, {time, values}, where `values` is a Map of numbers by the name of the line. */
export function draw(element, points) {
  const lines = choose(points);
  const highest = Math.max(0, ...lines.flatMap(([, values]) => values.map((value) => value ?? 0)));
  // The axis ends at 1, 2, 5 or 10 times a power of 10.
  const power = 10 ** Math.floor(Math.log10(highest || 1));
  const top = power * [1, 2, 5, 10].find((step) => step * power >= (highest || 1));
  const now = points.at(-1).time;

  const path = (values) => {
    let last;
    return points.map(({time}, index) => {
      if (values[index] == null) return "";
      const at = `${(600 - (now - time) / 1000).toFixed(1)} ${(100 - (values[index] / top) * 100).toFixed(1)}`;
      const begins = !(time - last < GAP);
      last = time;
      return begins ? `M${at}L${at}` : `L${at}`;
    });
  };
  const plot = $("svg", element);
  plot.replaceChildren(
    svg("path", {class: "rule", d: "M0 0H600M0 50H600M0 100H600"}),
    ...lines.map(([, values], line) => svg("path", {class: `line${line}`, d: path(values).join("")})));
  $(".top", element).textContent = format(top);
  const legend = lines.map(([name, values]) => `${name}: ${format(values.at(-1))}`);
  plot.setAttribute("aria-label",
    `${$("h2", element).textContent}. Now ${legend.join(", ") || "nothing"}. Highest in 10 minutes: ${format(highest)}.`);
  $("ul", element).replaceChildren(...legend.map((text, line) =>
    h("li", {}, svg("svg", {viewBox: "0 0 24 8"}, svg("path", {class: `line${line}`, d: "M0 4H24"})), text)));
}
