// The facts about a resource (ui/explorer.py), its values as text, and the URLs of its rows.

/** A segment of a path. Blobs are base64url in paths and base64 in documents. */
const segment = (type, value) =>
  encodeURIComponent(type === "blob" ? value.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "") : String(value));

/** Fill a path template such as "/plant/{genus}" with the values of a row. */
export const fill = (facts, template, row) =>
  template.replace(/\{(\w+)\}/g, (_, column) => segment(facts.columns[column], row[column]));

/** The path of a row. */
export const rowPath = (facts, row) => fill(facts, facts.routes.row.path, row);

// Numbers keep their digits: without this, 21.0 would be shown as 21. Older browsers don't have rawJSON.
const exact = JSON.rawJSON && ((_, value, {source}) => (typeof value === "number" ? JSON.rawJSON(source) : value));

/** Parse a document whose values are only shown. */
export const parse = (text) => JSON.parse(text, exact);

/** A value as text: strings as they are, everything else as JSON. */
export const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));

const field = (value) => {
  if (value === null) return "";
  const shown = text(value);
  return shown === "" || /[",\r\n]/.test(shown) ? `"${shown.replaceAll('"', '""')}"` : shown;
};

/** Rows as CSV, as docs/types.md defines it. */
export const csv = (facts, lines) => {
  const columns = Object.keys(facts.columns);
  const rows = lines.map((line) => {
    const row = parse(line);
    return columns.map((column) => field(row[column]));
  });
  return [columns, ...rows].map((row) => `${row}\r\n`);
};
