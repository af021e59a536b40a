// The facts about a resource (ui/explorer.py), and the URLs of its rows.

/** A segment of a path. Blobs are base64url in paths and base64 in documents. */
const segment = (type, value) =>
  encodeURIComponent(type === "blob" ? value.replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "") : String(value));

/** Fill a path template such as "/plant/{genus}" with the values of a row. */
export const fill = (facts, template, row) =>
  template.replace(/\{(\w+)\}/g, (_, column) => segment(facts.columns[column], row[column]));

/** The path of a row. */
export const rowPath = (facts, row) => fill(facts, facts.routes.row.path, row);
