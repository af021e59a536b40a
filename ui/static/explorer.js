import {call, explain, start} from "./api.js";
import {$, ask, h} from "./dom.js";
import {createRow, deleteRow, editRow} from "./edit.js";
import {csv, fill, parse, text} from "./resource.js";
import {cell, rowTable} from "./rows.js";
import {root} from "./session.js";

const facts = JSON.parse($("#explorer").dataset.facts);
const form = $("#query");
const view = form.elements["explorer-view"];
const details = $("#details");
const table = rowTable($(".rows"), facts, show);

// The latest request, and the path of its next page.
let controller = new AbortController();
let next;

const number = (value) => Math.round(value).toLocaleString("en");
const say = (id, words) => ($(id).textContent = words);

form.onsubmit = (event) => {
	event.preventDefault();
	const {path, defaults} = $("fieldset:enabled", form).dataset;
	const values = [...new FormData(form)].filter(([, value]) => value);
	history.replaceState(null, "", `?${new URLSearchParams(values)}`);
	const query = new URLSearchParams(defaults);
	for (const [name, value] of values) if (name !== view.name && !path.includes(`{${name}}`)) query.set(name, value);
	load(`${fill(facts, path, Object.fromEntries(values))}?${query}`);
};

async function load(path) {
	controller.abort();
	const {signal} = (controller = new AbortController());
	const began = performance.now();
	const rows = (table.rows = []);
	let frame, failure;
	const update = () => {
		frame = null;
		table.draw();
		const rate = (1000 * rows.length) / (performance.now() - began);
		return say("#progress", `Rows: ${number(rows.length)}. Rows per second: ${number(rate)}.`);
	};
	const add = (more) => {
		rows.push(...more);
		frame ??= requestAnimationFrame(update);
	};
	table.draw();
	form.dataset.busy = "yes";
	say("#outcome", "Loading …");
	const found = await read(path, signal, add).catch((error) => void (failure = error));
	cancelAnimationFrame(frame);
	if (signal !== controller.signal) return;
	next = found;
	let outcome = next ? "There are more pages." : "Complete.";
	if (failure) outcome = `${signal.aborted ? "Stopped" : "Failed"}: the result is not complete.`;
	say("#outcome", `${outcome} ${update()}`);
	say("#progress", "");
	const reasons = (failure?.errors ?? []).map(({msg}) => msg);
	say("#problem", failure && !signal.aborted ? [explain(failure), ...reasons].join(": ") : "");
	delete form.dataset.busy;
	$("#next").ariaDisabled = `${!next}`;
}

/** Add rows while they arrive. Return the path of the next page. */
async function read(path, signal, add) {
	const {body, headers} = await call("GET", path, {headers: {Accept: "application/x-ndjson, */*;q=.5"}, signal});
	let rest = "";
	await body.pipeThrough(new TextDecoderStream()).pipeTo(new WritableStream({
		write(chunk) {
			const lines = (rest + chunk).split("\n");
			rest = lines.pop();
			add(lines);
		},
	}));
	const link = headers.get("Link")?.match(/<(.*)>/)[1].slice(root.length);
	if (!rest) return link;
	// One row, or a page with `page_state`.
	const found = parse(rest);
	add([found[facts.name] ?? found].flat().map(text));
	return found.has_more ? `${path.replace(/&page_state=.*/, "")}&page_state=${found.page_state}` : link;
}

async function show(index) {
	const {rows} = table;
	const row = parse(rows[index]);
	$("dl", details).replaceChildren(...Object.keys(facts.columns).flatMap((column) =>
		[h("dt", {}, column), h("dd", {dir: "auto"}, cell(facts, column, row[column]))]));
	const choice = await ask(details);
	const stored = choice === "edit" ? await editRow(facts, row)
		: choice && (await deleteRow(facts, row)) ? null : undefined;
	if (stored === undefined) return;
	rows.splice(index, 1, ...(stored ? [text(stored)] : []));
	table.draw();
}

function save(type, lines) {
	const href = URL.createObjectURL(new Blob(lines, {type: `text/${type}`}));
	h("a", {href, download: `${facts.name}.${type}`}).click();
	setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

const actions = {
	stop: () => controller.abort(),
	next: () => next && load(next),
	create: async () => (await createRow(facts)) && form.requestSubmit(),
	csv: () => save("csv", csv(facts, table.rows)),
	ndjson: () => save("ndjson", table.rows.map((row) => `${row}\n`)),
};
document.onclick = ({target}) => actions[target.id]?.();
view.onchange = () => {
	for (const each of form.querySelectorAll("fieldset")) each.disabled = each.name !== view.value;
};
start(() => form.checkValidity() && form.requestSubmit());
