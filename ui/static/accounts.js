// Accounts, for operators.

import {call, explain, start} from "./api.js";
import {$, ask, h, notify} from "./dom.js";
import {onSubmit} from "./request.js";
import {root, session} from "./session.js";

const [list, more, problem, form] = ["#list", "#more", "#problem", "#password form"].map((id) => $(id));
let next;

const send = async (method, path, json) => (await call(method, `/accounts${path}`, {json})).json();

function row({email: address, created_at, disabled, scopes}) {
	const change = (json) => send("PATCH", `/${encodeURIComponent(address)}`, json);
	const button = (text, onclick) => h("button", {onclick, "aria-label": `${text}: ${address}`}, text);
	const toggle = button(disabled ? "Enable" : "Disable", async () => {
		try {
			const changed = row(await change({disabled: !disabled}));
			element.replaceWith(changed);
			$("button", changed).focus();
		} catch (error) {
			notify(explain(error), "error");
		}
	});
	const setPassword = button("Set password", () => {
		if (form.dataset.busy) return;
		form.reset();
		$("h2", form).textContent = `Set the password of ${address}`;
		onSubmit(form, async (data) => {
			await change(Object.fromEntries(data));
			notify(`The password of ${address} is changed.`);
		});
		ask(form.parentElement);
	});
	const actions = [address === session?.email ? "Your account" : toggle, " ", setPassword];
	const cells = [scopes.join(", "), created_at.slice(0, 10), disabled ? "disabled" : "active", actions];
	const element = h("tr", {}, h("th", {scope: "row"}, address), cells.map((content) => h("td", {}, content)));
	return element;
}

async function load(path = "/accounts?limit=100") {
	try {
		const response = await call("GET", path);
		const rows = (await response.json()).map(row);
		path === next ? list.append(...rows) : list.replaceChildren(...rows);
		next = /<(.+?)>/.exec(response.headers.get("Link"))?.[1].slice(root.length);
		more.hidden = !next;
		problem.textContent = "";
	} catch (error) {
		problem.textContent = explain(error);
	}
}

onSubmit($("#create"), async (data) => {
	const account = await send("POST", "", {...Object.fromEntries(data), scopes: data.getAll("scopes")});
	list.prepend(row(account));
	notify(`Created ${account.email}.`);
});
more.onclick = () => load(next);
start(load);
