import {$, notify} from "./dom.js";
import {root} from "./session.js";

const show = (textContent, isGood) =>
	Object.assign($("#health"), {textContent, className: `panel ${isGood ? "good" : "bad"}`});

async function check() {
	try {
		const response = await fetch(`${root}/health`);
		const {status, cassandra, nodes: {up, down}} = await response.json();
		show(`The service is ${status}. Cassandra is ${cassandra}. Nodes: ${up} up, ${down} down.`, response.ok);
	} catch {
		show("The service can't be reached.");
	}
}

for (const button of document.querySelectorAll("[data-copy]")) {
	button.onclick = async () => {
		await navigator.clipboard.writeText(button.previousElementSibling.textContent);
		notify("Copied.");
	};
}
check();
setInterval(check, 10_000);
