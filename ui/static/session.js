// Who is signed in. The access token is only in memory; the refresh token is in a cookie that no script can read.

import {$, ask, h, notify} from "./dom.js";

const page = document.documentElement.dataset;
/** The URL prefix of a proxy, without a slash at its end. */
export const root = page.root;
const hasSignIn = page.signIn === "yes";
export const unreachable = "The service can't be reached. Check that it runs, and try again.";

// Other tabs use the same cookie.
const name = `fieldbook-session ${root}`;
const tabs = new BroadcastChannel(name);
let session = null;
let renewing = null;
let signingIn = null;
// 0: the page does not know yet who is signed in.
let renewAt = 0;

const send = (method, path = "", json = undefined) =>
  fetch(`${root}/ui/session${path}`, {
    method,
    headers: {"X-Requested-With": "fieldbook", "Content-Type": "application/json"},
    body: JSON.stringify(json),
    signal: AbortSignal.timeout(30_000),
  });

// Tabs change the cookie one after the other, because each renewal replaces it.
const oneTab = (work) => (navigator.locks ? navigator.locks.request(name, work) : work());

/** Whether the person may use what requires this scope. Without a scope, everybody may. */
export const can = (scope) => !scope || Boolean(session?.scopes.some((each) => each === scope || each === "operator"));

/** The address of the account, or undefined. */
export const email = () => session?.email;

const identity = () => session && `${session.email} ${session.scopes}`;

function change(tokens) {
  const before = identity();
  session = tokens && {token: tokens.access_token, email: tokens.email, scopes: tokens.scope.split(" ")};
  // Before the token expires, so that no request is refused.
  renewAt = tokens ? Date.now() + 1000 * Math.max(tokens.expires_in - 30, tokens.expires_in * 0.7) : Infinity;
  if (identity() === before) return;
  if (session) $("#offer")?.remove();
  render();
  document.dispatchEvent(new CustomEvent("session"));
}

/** Get a new access token for the cookie. Return whether there is one. */
export function renew() {
  renewing ??= oneTab(async () => {
    const response = await send("POST", "/token");
    if (response.status === 200) change(await response.json());
    else if (response.status === 204) {
      if (session) offerSignIn("Your session has ended. Sign in again to continue; your input is kept.");
      change(null);
    } else throw new Error(response.status);
    return session !== null;
  })
    .catch(() => {
      // Try again later, but not with each request.
      renewAt = Date.now() + 3000;
      return false;
    })
    .finally(() => (renewing = null));
  return renewing;
}

/** Resolved when the page knows who is signed in. */
export const ready = hasSignIn ? renew() : Promise.resolve(false);

/** The access token for the next request, or undefined. */
export async function accessToken() {
  if (hasSignIn && Date.now() > renewAt) await renew();
  await ready;
  return session?.token;
}

/** Show a banner with a button to sign in, until the person does. */
export function offerSignIn(text = "Sign in to use this page.") {
  if (!hasSignIn || $("#offer")) return;
  $("#main").before(h("p", {id: "offer", class: "banner", role: "alert"}, text, h("button", {onclick: signIn}, "Sign in")));
}

/** Show the form to sign in. Return whether the person did. */
export function signIn() {
  if (!hasSignIn) return Promise.resolve(false);
  return (signingIn ??= showForm().finally(() => (signingIn = null)));
}

async function showForm() {
  const error = h("p", {class: "error", role: "alert"});
  const field = (label, name, type, autocomplete) =>
    h("label", {}, label, h("input", {name, type, autocomplete, required: true}));
  const submit = h("button", {type: "submit", class: "primary"}, "Sign in");
  const form = h("form", {onsubmit: submitted},
    h("h2", {id: "sign-in-title"}, "Sign in"),
    field("E-mail", "email", "email", "username"),
    field("Password", "password", "password", "current-password"),
    error,
    h("p", {class: "actions"}, submit, h("button", {type: "button", onclick: () => dialog.close()}, "Cancel")));
  const dialog = h("dialog", {"aria-labelledby": "sign-in-title"}, form);
  async function submitted(event) {
    event.preventDefault();
    error.textContent = "";
    submit.disabled = true;
    const failure = await exchange("POST", Object.fromEntries(new FormData(form)));
    submit.disabled = false;
    if (!failure) return dialog.close("signed in");
    error.textContent = failure;
    form.elements.password.select();
  }
  return (await ask(dialog)) === "signed in";
}

async function signOut() {
  const failure = await exchange("DELETE");
  if (failure) notify(`You are still signed in. ${failure}`, "error");
}

/** Sign in or out. Return what has failed. */
async function exchange(method, json) {
  const response = await oneTab(() => send(method, "", json)).catch(() => null);
  const body = await response?.json().catch(() => null);
  if (!response?.ok) return body?.detail ?? unreachable;
  change(body);
  tabs.postMessage("changed");
}

function render() {
  for (const element of document.querySelectorAll("[data-scope]")) element.hidden = !can(element.dataset.scope);
  if (!hasSignIn) return;
  const button = (text, onclick) => h("button", {onclick}, text);
  $("#account").replaceChildren(
    h("span", {class: "muted"}, session?.email ?? ""),
    session ? button("Sign out", signOut) : button("Sign in", signIn),
  );
}

tabs.addEventListener("message", renew);
render();
