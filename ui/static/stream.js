// Rows as NDJSON, while they arrive.

import {call} from "./api.js";

/** Add rows, as text, while they arrive. Throw if the stream is aborted or breaks. */
export async function readRows(path, signal, add) {
  const response = await call("GET", path, {headers: {Accept: "application/x-ndjson"}, signal});
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let chunk; !(chunk = await reader.read()).done; ) {
    const rows = (rest + chunk.value).split("\n");
    rest = rows.pop();
    add(rows);
  }
  return response;
}
