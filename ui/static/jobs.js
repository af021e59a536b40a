import {$, h, notify} from "./dom.js";
import {call, explain, start} from "./api.js";
import {accessToken, can, root} from "./session.js";

const [form, file, bar, list, problem] = ["#import", "#file", "#upload", "#jobs", "#problem"].map((id) => $(id));

const copy = (id) => $(id).content.firstElementChild.cloneNode(true);

function table(errors = []) {
	const element = copy("#lines");
	// In a response 422, the line is a part of `loc`.
	$("tbody", element).append(...errors.map(({line, loc, msg}) =>
		h("tr", {}, [line ?? loc[1], loc.slice(line ? 0 : 2).join("."), msg].map((text) => h("td", {}, text)))));
	return element;
}

function report(text, errors) {
	$("#outcome").textContent = text;
	$("#errors").replaceChildren(table(errors));
}

form.onsubmit = async (event) => {
	event.preventDefault();
	if (form.dataset.busy) return;
	const [chosen, second] = file.files;
	const [, type, gzip] = /\.(csv|ndjson|jsonl)(\.gz)?$/i.exec(chosen.name) ?? [];
	if (!type || second) return report(form.dataset.wrong);
	form.dataset.busy = "yes";
	bar.value = 0;
	report("");
	const token = await accessToken();
	// fetch() reports no progress of uploads.
	const request = new XMLHttpRequest();
	request.open("POST", `${root}${$("#resource").value}/import?${new URLSearchParams(new FormData(form))}`);
	request.responseType = "json";
	request.setRequestHeader("Content-Type", /csv/i.test(type) ? "text/csv" : "application/x-ndjson");
	if (gzip) request.setRequestHeader("Content-Encoding", "gzip");
	if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
	request.upload.onprogress = ({loaded, total}) => (bar.value = loaded / total);
	request.upload.onload = () => bar.removeAttribute("value");
	request.onloadend = async () => {
		delete form.dataset.busy;
		await load();
		const {read, written, failed, errors, detail} = request.response ?? {};
		if (request.status === 200) report(`Rows: ${read} read, ${written} written, ${failed} failed.`, errors);
		else if (request.status === 202) {
			report(form.dataset.later);
			$("h3", list)?.focus();
		} else report(detail ?? form.dataset.lost, errors);
	};
	$("#stop").onclick = () => request.abort();
	request.send(chosen);
};

document.ondragover = document.ondrop = (event) => {
	event.preventDefault();
	if (event.type === "drop") file.files = event.dataTransfer.files;
};

/** Show a job. Its element stays while it changes, and so does the focus. */
function show(job) {
	let element = document.getElementById(job.id);
	if (!element) {
		element = copy("#job");
		element.id = job.id;
		$("time", element).append(new Date(job.created_at).toLocaleString());
		$("details", element).append(table(job.errors));
	}
	element.dataset.state = job.state;
	$("progress", element).value = job.percent;
	for (const part of element.querySelectorAll("[data-field]"))
		part.textContent = job[part.dataset.field]?.toLocaleString() ?? "";
	return element;
}

list.onclick = async ({target}) => {
	const job = target.closest("li");
	const {method, action} = target.dataset;
	if (!method) return;
	try {
		await call(method, `/jobs/${job.id}${action}`);
		await load();
		$("h3", job).focus();
	} catch (error) {
		notify(explain(error), "error");
	}
};

async function load() {
	if (!can(list.dataset.scope)) return list.replaceChildren();
	try {
		const elements = (await (await call("GET", "/jobs?limit=50")).json()).map(show);
		// To move an element takes its focus.
		if (`${elements.map(({id}) => id)}` !== `${[...list.children].map(({id}) => id)}`) list.replaceChildren(...elements);
		problem.textContent = "";
	} catch (error) {
		problem.textContent ||= explain(error);
	}
}

async function poll() {
	if (!document.hidden) await load();
	setTimeout(poll, 1500);
}

start(load);
poll();
