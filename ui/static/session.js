// Who is signed in. The access token is only in memory; the refresh token is in a cookie that no script can read.

import {$, ask, notify} from "./dom.js";
import {explain, onSubmit, request, root} from "./request.js";

// null where nobody signs in.
const dialog = $("#sign-in");
const offer = $("#offer");

// Other tabs use the same cookie.
const name = `fieldbook-session ${root}`;
const tabs = new BroadcastChannel(name);
/** Who is signed in, as `ui/session.py` returns it, or null. */
export let session = null;
let renewing, signingIn;
// 0: nothing is known yet.
let renewAt = 0;

/** Whether the person may use what requires this scope, if any. */
export const can = (scope) => !scope || [scope, "operator"].some((each) => session?.scope.split(" ").includes(each));

function change(tokens) {
	const before = session;
	session = tokens;
	// After 70 % of the lifetime, so that no request is refused.
	renewAt = tokens ? Date.now() + 700 * tokens.expires_in : Infinity;
	if (before?.email === tokens?.email && before?.scope === tokens?.scope) return;
	if (session) offer.hidden = true;
	for (const element of document.querySelectorAll("[data-scope]")) element.hidden = !can(element.dataset.scope);
	$("#account span").textContent = session?.email;
	document.dispatchEvent(new Event("session"));
}

/** Sign in, sign out, or renew the access token. */
function exchange(method, path = "", json) {
	async function work() {
		const headers = {"X-Requested-With": "fieldbook"};
		// The browser must receive the new cookie, also if the person leaves the page.
		const options = {keepalive: true, signal: AbortSignal.timeout(30_000)};
		const response = await request(method, `/ui/session${path}`, {json, headers, ...options});
		const tokens = response.status === 204 ? null : await response.json();
		if (path && session && !tokens) offerSignIn(true);
		change(tokens);
		if (!path) tabs.postMessage("changed");
	}
	// Tabs change the cookie one after the other, because each renewal replaces it.
	return navigator.locks?.request(name, work) ?? work();
}

/** Get a new access token for the cookie. Return the session, if there is one. */
export const renew = () =>
	(renewing ??= exchange("POST", "/token")
		// Try again later, but not with each request.
		.catch(() => (renewAt = Date.now() + 3000))
		.then(() => {
			renewing = null;
			return session;
		}));

/** The access token for the next request, or undefined. */
export async function accessToken() {
	if (dialog && Date.now() > renewAt) await renew();
	return session?.access_token;
}

export const ready = accessToken();

export function offerSignIn(hasEnded = false) {
	if (!offer?.hidden) return;
	$("span", offer).hidden = !hasEnded;
	offer.hidden = false;
}

/** Show the form to sign in. Return "" if the person cancels. */
export function signIn() {
	if (dialog && !dialog.open) {
		$("form", dialog).reset();
		signingIn = ask(dialog);
	}
	return signingIn;
}

if (dialog) {
	const [signInButton, signOutButton] = $("#account").querySelectorAll("button");
	signInButton.onclick = $("button", offer).onclick = signIn;
	signOutButton.onclick = () =>
		exchange("DELETE").catch((error) => notify(`You are still signed in. ${explain(error)}`, "error"));
	onSubmit($("form", dialog), async (data) => {
		await exchange("POST", "", Object.fromEntries(data));
		dialog.close("signed in");
	});
	tabs.onmessage = renew;
}

export {root};
