// Accounts, for operators.

import {call, explain, start} from "./api.js";
import {$, ask, h, notify} from "./dom.js";
import {email, root} from "./session.js";

const [list, more, problem, create, dialog] = ["list", "more", "problem", "create", "password"].map((id) => $(`#${id}`));
const form = $("form", dialog);
const first = "/accounts?limit=100";
let next;
let selected;

const send = async (method, path, json) => (await call(method, path, {json})).json();
const change = (account, json) => send("PATCH", `/accounts/${encodeURIComponent(account.email)}`, json);

/** Call `run` when a form is sent. Show errors beside their fields. */
function onSubmit(form, run) {
  const show = (errors) => {
    for (const place of form.querySelectorAll("[data-error]"))
      place.textContent = errors.find(({loc}) => loc[1] === place.dataset.error)?.msg ?? "";
  };
  form.addEventListener("reset", () => show([]));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await run(new FormData(form));
      form.reset();
    } catch (error) {
      show(error.errors?.length ? error.errors : [{loc: ["body", ""], msg: explain(error)}]);
    }
  });
}

function row(account) {
  const {created_at, disabled, scopes} = account;
  const button = (text, onclick) => h("button", {onclick, "aria-label": `${text}: ${account.email}`}, text);
  async function toggle() {
    try {
      const changed = row(await change(account, {disabled: !disabled}));
      element.replaceWith(changed);
      $("button", changed).focus();
    } catch (error) {
      notify(explain(error), "error");
    }
  }
  async function setPassword() {
    selected = account;
    $("h2", dialog).textContent = `Set the password of ${account.email}`;
    if (await ask(dialog)) notify(`The password of ${account.email} is changed.`);
  }
  const own = account.email === email();
  const element = h("tr", {},
    h("th", {scope: "row"}, account.email),
    h("td", {}, scopes.join(", ")),
    h("td", {}, new Date(created_at).toLocaleDateString()),
    h("td", {}, disabled ? "disabled" : "active"),
    h("td", {}, own ? "Your account" : button(disabled ? "Enable" : "Disable", toggle), " ",
      button("Set password", setPassword)));
  return element;
}

async function load(path) {
  try {
    const response = await call("GET", path);
    problem.textContent = "";
    if (path === first) list.replaceChildren();
    list.append(...(await response.json()).map(row));
    next = /<(.+?)>/.exec(response.headers.get("Link"))?.[1].slice(root.length);
    more.hidden = !next;
  } catch (error) {
    problem.textContent = explain(error);
  }
}

onSubmit(create, async (data) => {
  const json = {...Object.fromEntries(data), scopes: data.getAll("scopes")};
  const account = await send("POST", "/accounts", json);
  list.prepend(row(account));
  notify(`The account ${account.email} is created.`);
});
onSubmit(form, async (data) => {
  await change(selected, Object.fromEntries(data));
  dialog.close("changed");
});
dialog.addEventListener("close", () => form.reset());
$("[type=button]", form).addEventListener("click", () => dialog.close());
more.addEventListener("click", () => load(next));
start(() => load(first));
