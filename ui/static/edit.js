// Create, edit and delete rows. ui/templates/ui/forms.html has the dialogs.

import {call, explain} from "./api.js";
import {$, ask, h, notify} from "./dom.js";
import {rowForm, same, showErrors} from "./form.js";
import {rowPath} from "./resource.js";
import {cell} from "./rows.js";

const clone = (name) => $(`#template-${name}`).content.firstElementChild.cloneNode(true);

async function read(facts, row) {
	const response = await call("GET", rowPath(facts, row));
	return {row: await response.json(), headers: facts.versioned && {"If-Match": response.headers.get("ETag")}};
}

// What the functions below return if the row can't be read.
function tell(error) {
	notify(explain(error), "error");
	return error.status === 404 ? null : undefined;
}

function compare(dialog, facts, ...versions) {
	$("tbody", dialog).replaceChildren(...Object.keys(facts.columns).map((column) => {
		const values = versions.map((row) => row[column]);
		return h("tr", {class: !same(values[0], values.at(-1)) && "differs"},
			h("th", {scope: "row"}, column),
			values.map((value) => h("td", {dir: "auto"}, cell(facts, column, value))));
	}));
}

/** Show a dialog until `save` succeeds or the person cancels. Return what `save` returned, null if the row does not exist
 * any more, or the version that won a race. */
async function submit(dialog, save) {
	const {dataset} = dialog;
	const message = $("[role=alert] span", dialog);
	let result;
	$("form", dialog).onsubmit = async (event) => {
		event.preventDefault();
		if (dataset.state === "busy") return;
		dataset.state = "busy";
		message.textContent = showErrors(dialog, []);
		try {
			result = await save();
			dialog.close();
		} catch (error) {
			const {errors = [], status, winner} = error;
			result = status === 404 ? null : winner;
			message.textContent = showErrors(dialog, errors) || explain(error);
			// No answer, or no definite one. 409: the service still works on it.
			dataset.state = status < 500 && status !== 409 ? status : "unsure";
			if (winner) $(".versions", dialog).focus();
		}
	};
	await ask(dialog);
	return result;
}

/** Show the form for a new row. Return whether a row may have been created. */
export async function createRow(facts) {
	const dialog = clone("create");
	const form = rowForm(dialog);
	let key, sent;
	await submit(dialog, async () => {
		const json = form.body();
		// With the same key, the service creates no second row.
		if (!same(json, sent)) key = crypto.getRandomValues(new Uint32Array(4)).join("-");
		sent = json;
		await call("POST", facts.path, {json, headers: {"Idempotency-Key": key}});
		notify("Created.");
	});
	return Boolean(sent);
}

/** After a lost race, show the version that won it beside that of the person. */
async function conflict(error, dialog, facts, stored, values) {
	if (error.status === 412) {
		Object.assign(stored, await read(facts, stored.row));
		error.winner = stored.row;
		compare(dialog, facts, {...stored.row, ...values}, stored.row);
	}
	throw error;
}

/** Show the form for a row. Return the stored row, null if it does not exist any more, undefined if nothing changed. */
export async function editRow(facts, row) {
	const stored = await read(facts, row).catch(tell);
	if (!stored) return stored;
	const {versioned} = facts;
	const dialog = clone("change");
	const form = rowForm(dialog);
	form.set(stored.row);
	return submit(dialog, async () => {
		const json = form.body(versioned && stored.row);
		const mine = {...stored.row, ...json};
		// Nothing was edited, or an earlier request without an answer was carried out.
		if (same(mine, stored.row)) return mine;
		const response = await (versioned
			? call("PATCH", rowPath(facts, row), {json, headers: stored.headers})
			: call("POST", facts.path, {json})
		).catch((error) => conflict(error, dialog, facts, stored, json)).finally(() => form.set(stored.row));
		notify("Saved.");
		return versioned ? response.json() : mine;
	});
}

/** Ask, and delete a row. Return whether it does not exist any more. */
export async function deleteRow(facts, row) {
	const stored = await read(facts, row).catch(tell);
	if (!stored) return stored === null;
	const dialog = clone("delete");
	compare(dialog, facts, stored.row);
	return null === await submit(dialog, async () => {
		await call("DELETE", rowPath(facts, row), {headers: stored.headers})
			.catch((error) => conflict(error, dialog, facts, stored, stored.row));
		notify("Deleted.");
		return null;
	});
}
