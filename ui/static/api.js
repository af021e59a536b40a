// Requests to the service.

import {accessToken, offerSignIn, ready, renew, root, signIn, unreachable} from "./session.js";

/** An error of the service. `errors` has those of single fields: {loc, msg}. */
export class Problem extends Error {
  constructor(status, document_) {
    super(document_.detail ?? document_.title ?? `The service answered ${status}.`);
    this.status = status;
    this.errors = document_.errors ?? [];
    this.document = document_;
  }
}

/** Send a request. Return the response if it is a success; raise a Problem, or a TypeError without a response.
 *
 * If it needs a sign-in, the page offers it, and then repeats it, except GET. */
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
    if (response.status === 401) {
      // The service may have a new key.
      if (token && attempt === 0 && (await renew())) continue;
      // A refresh in the background (GET) opens no dialog.
      if (method !== "GET" && (await signIn())) continue;
      offerSignIn();
    }
    throw new Problem(response.status, await response.json().catch(() => ({})));
  }
}

/** What to tell the person about an error. */
export const explain = (error) =>
  !(error instanceof Problem) ? unreachable : error.status === 401 ? "Sign in to continue." : error.message;

/** Run what a page does at its start; again when the person signs in or out. */
export async function start(run) {
  await ready;
  document.addEventListener("session", () => run());
  await run();
}

export {signIn};
