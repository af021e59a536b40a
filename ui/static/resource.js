// The facts about a resource (ui/explorer.py), its values as text, and the URLs of its rows.

/** A segment of a path. Blobs are base64url in paths and base64 in documents. */
const segment = (type, value) =>
  encodeURIComponent(type === "blob" ? value.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "") : value);

/** Fill a path template such as "/plant/{genus}" with the values of a row. */
export const fill = (facts, template, row) =>
  template.replace(/\{(\w+)\}/g, (_, column) => segment(facts.columns[column], row[column]));

/** The path of a row. */
export const rowPath = (facts, row) => fill(facts, facts.routes.row.path, row);

// JSON.parse makes 21 of 21.0. Older browsers have no rawJSON.
const exact = JSON.rawJSON && ((_, value, {source}) => (typeof value === "number" ? JSON.rawJSON(source) : value));

/** Parse JSON for display: numbers keep their digits. */
export const parse = (json) => JSON.parse(json, exact);

/** A value as text. */
export const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));

const field = (value) =>
  value === null ? "" : text(value).replace(/^$|^[^]*[",\r\n][^]*$/, (all) => `"${all.replaceAll('"', '""')}"`);

/** Lines of CSV (docs/types.md) with rows that are given as JSON. */
export function csv(facts, rows) {
  const columns = Object.keys(facts.columns);
  const line = (row) => `${columns.map((column) => field(row[column]))}\r\n`;
  return [`${columns}\r\n`, ...rows.map((json) => line(parse(json)))];
}
