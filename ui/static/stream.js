import {call} from "./api.js";

/** Add rows of NDJSON while they arrive. Return `rest`, a response that is one document. Throw if the stream breaks. */
export async function readRows(path, signal, add) {
  const {body, headers} = await call("GET", path, {headers: {Accept: "application/x-ndjson, application/json;q=.5"}, signal});
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let chunk; !(chunk = await reader.read()).done; ) {
    const rows = (rest + chunk.value).split("\n");
    rest = rows.pop();
    add(rows);
  }
  return {headers, rest};
}
