// Forms for rows. ui/forms.py has their inputs; the service decides what is valid.

import {Problem} from "./api.js";
import {$} from "./dom.js";

export const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

function fieldOf(element) {
	const {column, kind, optional, empty} = element.dataset;
	const [input, isNull] = element.querySelectorAll("input, select, textarea");
	let stored, edited;
	element.oninput = ({target}) => {
		edited = true;
		if (target === isNull) input.value = "";
		else if (isNull) isNull.checked = false;
	};
	return {
		column,
		set(value) {
			if (edited) return;
			stored = value;
			const text = value === null ? "" : kind === "json" ? JSON.stringify(value) : String(value);
			input.value = input.type === "datetime-local" ? text.slice(0, -1) : text;
			if (isNull) isNull.checked = value === null;
		},
		read() {
			// The input may show less than the value has, such as LF for CR LF.
			if (!edited && (optional || stored !== undefined)) return stored;
			if (isNull?.checked) return null;
			const {validationMessage, value} = input;
			if (validationMessage) throw Error(validationMessage);
			if (!value || kind === "json") return JSON.parse(value || empty);
			if (kind === "number") return +value;
			return input.type === "datetime-local" ? new Date(`${value}Z`).toISOString() : value;
		},
	};
}

export function rowForm(dialog) {
	const fields = [...dialog.querySelectorAll(".field")].map(fieldOf);
	return {
		/** Show a version of the row in the inputs that nobody has edited. */
		set: (row) => fields.forEach(({column, set}) => set(row[column])),
		/** The request body, without the values that `base` has. */
		body(base) {
			const body = {}, errors = [];
			for (const {column, read} of fields) {
				try {
					const value = read();
					if (!same(value, base?.[column])) body[column] = value;
				} catch ({message}) {
					errors.push({loc: ["body", column], msg: message});
				}
			}
			if (errors.length) throw new Problem(422, {errors});
			return body;
		},
	};
}

/** Show errors beside their inputs. Return what else to say about them. */
export function showErrors(dialog, errors) {
	for (const element of dialog.querySelectorAll(".field")) {
		const error = errors.find(({loc}) => loc[1] === element.dataset.column);
		$(".error", element).textContent = error ? [...error.loc.slice(2), error.msg].join(": ") : "";
		$("input, select, textarea", element).ariaInvalid = Boolean(error);
	}
	const marked = $("[aria-invalid=true]", dialog);
	marked?.focus();
	return marked ? "Correct the marked fields." : errors.map(({msg}) => msg).join(" ");
}
