// Accounts, for operators.

import {call, explain, start} from "./api.js";
import {$, ask, h, notify} from "./dom.js";
import {email, root} from "./session.js";

const [list, more, problem, dialog] = ["list", "more", "problem", "password"].map((id) => $(`#${id}`));
const form = $("form", dialog);
let next, selected;

const send = async (method, path, json) => (await call(method, path, {json})).json();
const change = (address, json) => send("PATCH", `/accounts/${encodeURIComponent(address)}`, json);

/** Run `run` when a form is sent, and show errors beside their fields. */
function onSubmit(form, run) {
  const show = (errors) => {
    for (const place of form.querySelectorAll("[data-error]"))
      place.textContent = errors.find(({loc}) => loc[1] === place.dataset.error)?.msg;
  };
  form.addEventListener("reset", () => show([]));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await run(new FormData(form));
      form.reset();
    } catch (error) {
      show(error.errors?.length ? error.errors : [{loc: [0, ""], msg: explain(error)}]);
    }
  });
}

function row({email: address, created_at, disabled, scopes}) {
  const button = (text, onclick) => h("button", {onclick, "aria-label": `${text}: ${address}`}, text);
  async function toggle() {
    try {
      const changed = row(await change(address, {disabled: !disabled}));
      element.replaceWith(changed);
      $("button", changed).focus();
    } catch (error) {
      notify(explain(error), "error");
    }
  }
  async function setPassword() {
    selected = address;
    form.reset();
    $("h2", dialog).textContent = `Set the password of ${address}`;
    if (await ask(dialog)) notify(`The password of ${address} is changed.`);
  }
  const cell = (...content) => h("td", {}, ...content);
  const element = h("tr", {},
    h("th", {scope: "row"}, address),
    cell(scopes.join(", ")),
    cell(created_at.slice(0, 10)),
    cell(disabled ? "disabled" : "active"),
    cell(address === email() ? "Your account" : button(disabled ? "Enable" : "Disable", toggle), " ",
      button("Set password", setPassword)));
  return element;
}

async function load(path) {
  try {
    const response = await call("GET", path ?? "/accounts?limit=100");
    const rows = (await response.json()).map(row);
    path ? list.append(...rows) : list.replaceChildren(...rows);
    next = /<(.+?)>/.exec(response.headers.get("Link"))?.[1].slice(root.length);
    more.hidden = !next;
    problem.textContent = "";
  } catch (error) {
    problem.textContent = explain(error);
  }
}

onSubmit($("#create"), async (data) => {
  const account = await send("POST", "/accounts", {...Object.fromEntries(data), scopes: data.getAll("scopes")});
  list.prepend(row(account));
  notify(`Created ${account.email}.`);
});
onSubmit(form, async (data) => {
  await change(selected, Object.fromEntries(data));
  dialog.close("changed");
});
$("[type=button]", form).addEventListener("click", () => dialog.close());
more.addEventListener("click", () => load(next));
start(() => load());
