// Requests with the access token.

import {explain, Problem, request} from "./request.js";
import {accessToken, offerSignIn, ready, renew, signIn} from "./session.js";

/** Send a request. If it needs a sign-in, offer that, and then repeat the request, except GET. */
export async function call(method, path, {headers, ...options} = {}) {
	for (let attempt = 0; ; attempt++) {
		const token = await accessToken();
		const signed = {...(token && {Authorization: `Bearer ${token}`}), ...headers};
		try {
			return await request(method, path, {headers: signed, ...options});
		} catch (error) {
			if (error.status !== 401) throw error;
			// The service may have a new key.
			if (token && attempt === 0 && (await renew())) continue;
			// A refresh in the background (GET) opens no dialog.
			if (method !== "GET" && (await signIn())) continue;
			offerSignIn();
			throw new Problem(401, {detail: "Sign in to continue."});
		}
	}
}

/** Run what a page does at its start; again when the person signs in or out. */
export async function start(run) {
	await ready;
	document.addEventListener("session", () => run());
	await run();
}

export {explain, Problem};
