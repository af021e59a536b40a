// Requests without an access token, and their errors.

/** The URL prefix of a proxy, without a slash at its end. */
export const {root} = document.documentElement.dataset;

/** An error of the service. `errors` has those of single fields: {loc, msg}. */
export class Problem extends Error {
	constructor(status, {title = `The service answered ${status}.`, detail = title, errors = []}) {
		super(detail);
		Object.assign(this, {status, errors});
	}
}

export const explain = (error) =>
	error instanceof Problem ? error.message : "The service can't be reached. Check that it runs, and try again.";

/** Return a successful response; raise a Problem, or a TypeError without a response. */
export async function request(method, path, {json, headers, ...options}) {
	const response = await fetch(root + path, {
		method,
		headers: {...(json && {"Content-Type": "application/json"}), ...headers},
		body: JSON.stringify(json),
		...options,
	});
	if (response.ok) return response;
	throw new Problem(response.status, await response.json().catch(() => ({})));
}

/** Run `run` when a form is sent, and show errors beside their fields. */
export function onSubmit(form, run) {
	const show = (errors) => {
		for (const place of form.querySelectorAll("[data-error]"))
			place.textContent = errors.find(({loc}) => loc[1] === place.dataset.error)?.msg;
	};
	form.onreset = () => {
		show([]);
		form.closest("dialog")?.close();
	};
	form.onsubmit = async (event) => {
		event.preventDefault();
		if (form.dataset.busy) return;
		form.dataset.busy = "yes";
		show([]);
		try {
			await run(new FormData(form));
			form.reset();
		} catch (error) {
			show(error.errors?.length ? error.errors : [{loc: [0, ""], msg: explain(error)}]);
		}
		delete form.dataset.busy;
	};
}
