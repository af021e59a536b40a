// Who is signed in. The access token is only in memory; the refresh token is in a cookie that no script can read.

import {$, ask, h} from "./dom.js";

const page = document.documentElement.dataset;
/** The URL prefix of a proxy, without a slash at its end. */
export const root = page.root;
const hasSignIn = page.signIn === "yes";

// Other tabs use the same cookie.
const tabs = new BroadcastChannel("fieldbook-session");
let session = null;
let renewing = null;

const send = (method, path = "", body = undefined) =>
  fetch(`${root}/ui/session${path}`, {
    method,
    headers: {"X-Requested-With": "fieldbook", ...(body && {"Content-Type": "application/json"})},
    body: body && JSON.stringify(body),
  });

// Tabs renew one after the other, because each renewal replaces the cookie.
const oneTab = (work) => (navigator.locks ? navigator.locks.request("fieldbook-session", work) : work());

/** Whether the person may use what requires this scope. Without a scope, everybody may. */
export const can = (scope) =>
  !scope || Boolean(session?.scopes.includes(scope) || session?.scopes.includes("operator"));

function change(document_) {
  session = document_ && {
    token: document_.access_token,
    expires: Date.now() + document_.expires_in * 1000,
    scopes: document_.scope.split(" "),
  };
  render();
  document.dispatchEvent(new CustomEvent("session"));
}

/** Get a new access token for the cookie. Return whether somebody is signed in. */
export function renew() {
  renewing ??= oneTab(async () => {
    const response = await send("POST", "/token");
    if (response.status === 200) change(await response.json());
    else if (response.status === 204) change(null);
    return session !== null;
  })
    .catch(() => false)
    .finally(() => {
      renewing = null;
    });
  return renewing;
}

/** Resolved when the page knows who is signed in. */
export const ready = hasSignIn ? renew() : Promise.resolve(false);

/** The access token for the next request, or undefined. */
export async function accessToken() {
  await ready;
  if (session && Date.now() > session.expires - 30_000) await renew();
  return session?.token;
}

/** Show the form to sign in. Return whether the person has signed in. */
export async function signIn() {
  const error = h("p", {class: "error", role: "alert"});
  const form = h(
    "form",
    {method: "dialog"},
    h("h2", {id: "sign-in-title"}, "Sign in"),
    h("label", {}, "E-mail", h("input", {name: "email", type: "email", autocomplete: "username", required: true})),
    h("label", {}, "Password",
      h("input", {name: "password", type: "password", autocomplete: "current-password", required: true})),
    error,
    h("p", {class: "actions"},
      h("button", {type: "submit", class: "primary"}, "Sign in"),
      h("button", {type: "button", onclick: () => dialog.close()}, "Cancel")),
  );
  const dialog = h("dialog", {"aria-labelledby": "sign-in-title"}, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    error.textContent = "";
    const {email, password} = Object.fromEntries(new FormData(form));
    const response = await send("POST", "", {email, password}).catch(() => null);
    const body = response && (await response.json().catch(() => null));
    if (response?.ok) {
      change(body);
      tabs.postMessage("changed");
      dialog.close("signed in");
    } else error.textContent = body?.detail ?? "The service can't be reached.";
  });
  return (await ask(dialog)) === "signed in";
}

async function signOut() {
  const response = await oneTab(() => send("DELETE")).catch(() => null);
  if (response?.status !== 204) return;
  change(null);
  tabs.postMessage("changed");
}

function render() {
  for (const element of document.querySelectorAll("[data-scope]")) element.hidden = !can(element.dataset.scope);
  if (!hasSignIn) return;
  $("#account").replaceChildren(
    session
      ? h("button", {onclick: signOut, title: `Scopes: ${session.scopes.join(", ")}`}, "Sign out")
      : h("button", {onclick: signIn}, "Sign in"),
  );
}

tabs.addEventListener("message", renew);
render();
