// Values of a resource as text. Its facts are from ui/explorer.py.

/** A segment of a path. Blobs are base64url in paths and base64 in documents. */
const segment = (type, value) =>
	encodeURIComponent(type === "blob" ? value.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "") : value);

export const fill = (facts, template, row) =>
	template.replace(/\{(\w+)\}/g, (_, column) => segment(facts.columns[column], text(row[column])));

export const rowPath = (facts, row) => fill(facts, facts.routes.row.path, row);

/** Parse JSON for display: numbers keep their digits. */
export const parse = (json) =>
	JSON.parse(json, (key, value, {source}) => (typeof value === "number" ? JSON.rawJSON(source) : value));

export const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));

const field = (value) =>
	value === null ? "" : text(value).replace(/^$|^[^]*[",\r\n][^]*$/, (all) => `"${all.replaceAll('"', '""')}"`);

/** Lines of CSV (docs/types.md) with rows that are given as JSON. */
export function csv(facts, rows) {
	const columns = Object.keys(facts.columns);
	const line = (row) => `${columns.map((column) => field(row[column]))}\r\n`;
	return [`${columns}\r\n`, ...rows.map((json) => line(parse(json)))];
}
