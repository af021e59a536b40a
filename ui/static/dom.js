// Elements. Text is never parsed as HTML.

export const $ = (selector, parent = document) => parent.querySelector(selector);

const set = (element, attributes, children) => {
	for (const [name, value] of Object.entries(attributes)) {
		if (name.startsWith("on")) element[name] = value;
		else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
	}
	element.append(...children.flat().filter((child) => child != null));
	return element;
};

/** Create an element: h("button", {onclick: run}, "Run"). */
export const h = (tag, attributes = {}, ...children) => set(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
	set(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Show a message for some seconds. */
export function notify(text, kind = "info") {
	const message = h("p", {class: `message ${kind}`}, text);
	$("#messages").append(message);
	setTimeout(() => message.remove(), 8000);
}

/** Open a modal dialog. Return its `returnValue`; Escape returns "". */
export function ask(dialog) {
	document.body.append(dialog);
	dialog.returnValue = "";
	dialog.showModal();
	return new Promise((resolve) => {
		dialog.onclose = () => {
			dialog.remove();
			resolve(dialog.returnValue);
		};
	});
}
