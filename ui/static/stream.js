// Rows as NDJSON, while they arrive.

import {call} from "./api.js";

/** Read rows, and pass those of each chunk to `push`, as text. Raise an error if the stream is aborted or breaks. */
export async function readRows(path, signal, push) {
  const response = await call("GET", path, {headers: {Accept: "application/x-ndjson"}, signal});
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    push(lines);
  }
  if (rest) throw new TypeError("The last row is not complete.");
  return response;
}
