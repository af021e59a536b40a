// Requests to the service.

import {accessToken, ready, renew, root, signIn} from "./session.js";

/** An error of the service. `errors` has those of single fields: {loc, msg}. */
export class Problem extends Error {
  constructor(status, document_) {
    super(document_.detail ?? document_.title ?? `The service answered ${status}.`);
    this.status = status;
    this.errors = document_.errors ?? [];
    this.document = document_;
  }
}

/** Send a request. Return the response if it is a success; raise a Problem, or a TypeError without a response. */
export async function call(method, path, {json, body, headers = {}, signal} = {}) {
  for (let attempt = 0; ; attempt++) {
    const token = await accessToken();
    const response = await fetch(root + path, {
      method,
      signal,
      headers: {
        ...(json !== undefined && {"Content-Type": "application/json"}),
        ...(token && {Authorization: `Bearer ${token}`}),
        ...headers,
      },
      body: json === undefined ? body : JSON.stringify(json),
    });
    if (response.ok) return response;
    // The token may have been revoked by a new key of the service.
    if (response.status === 401 && token && attempt === 0 && (await renew())) continue;
    throw new Problem(response.status, await response.json().catch(() => ({})));
  }
}

/** What to tell the person about an error. */
export const explain = (error) =>
  error instanceof Problem ? error.message : "The service can't be reached. Check that it runs, and try again.";

/** Run what a page does at its start; again when the person signs in or out. */
export async function start(run) {
  await ready;
  document.addEventListener("session", run);
  await run();
}

export {signIn};
