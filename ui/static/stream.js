// Rows as NDJSON, while they arrive.

import {call} from "./api.js";

/** Pass rows to `push` as text, those of each chunk together. Throw if the stream is aborted or breaks. */
export async function readRows(path, signal, push) {
  const response = await call("GET", path, {headers: {Accept: "application/x-ndjson"}, signal});
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let chunk; !(chunk = await reader.read()).done; ) {
    const lines = (rest + chunk.value).split("\n");
    rest = lines.pop();
    push(lines);
  }
  return response;
}
