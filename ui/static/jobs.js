// Imports: upload a file, and watch the jobs.

import {$, h, notify} from "./dom.js";
import {call, explain, start} from "./api.js";
import {accessToken, can, root} from "./session.js";

const [form, file, bar, state, list, more, problem] =
  ["#import", "#file", "#upload", "#state", "#jobs", "#more", "#problem"].map((id) => $(id));
const OPEN = "[data-state=queued], [data-state=running]";
let loads = 0;

const copy = (id) => $(id).content.firstElementChild.cloneNode(true);

function table(errors = []) {
  const element = copy("#lines");
  // In a response 422, the line is a part of `loc`.
  $("tbody", element).append(...errors.map(({line, loc, msg}) =>
    h("tr", {}, [line ?? loc[1], loc.slice(line ? 0 : 2).join("."), msg].map((text) => h("td", {}, text)))));
  return element;
}

function report(textContent, className = "", errors) {
  Object.assign($("#outcome"), {textContent, className});
  $("#errors").replaceChildren(table(errors));
}

form.onsubmit = async (event) => {
  event.preventDefault();
  if (form.dataset.busy) return;
  const [chosen, second] = file.files;
  const [, type, gzip] = /\.(csv|ndjson|jsonl)(\.gz)?$/i.exec(chosen.name) ?? [];
  if (!type || second) return report(form.dataset.wrong, "error");
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
  request.upload.onload = () => {
    bar.removeAttribute("value");
    load();
  };
  request.onloadend = async () => {
    delete form.dataset.busy;
    state.selectedIndex = 0;
    await load();
    const {read, written, failed, errors, detail} = request.response ?? {};
    if (request.status === 200)
      report(`Rows: ${read} read, ${written} written, ${failed} failed.`, failed ? "warn" : "good", errors);
    else if (request.status === 202) {
      report(form.dataset.later);
      $("h3", list)?.focus();
    } else report(detail ?? form.dataset.lost, "error", errors);
  };
  $("#stop").onclick = () => request.abort();
  request.send(chosen);
};

document.ondragover = document.ondrop = (event) => {
  event.preventDefault();
  if (event.type === "drop") file.files = event.dataTransfer.files;
};

/** Show a job. Its elements stay while it changes, and so does the focus. */
function show(job) {
  let element = document.getElementById(job.id);
  if (!element) {
    list.append((element = copy("#job")));
    element.id = job.id;
    $("time", element).append(new Date(job.created_at).toLocaleString());
    $("details", element).append(table(job.errors));
  }
  const wasOpen = element.matches(OPEN);
  element.dataset.state = job.state;
  if (wasOpen && !element.matches(OPEN)) notify(`Import into ${job.resource}: ${job.state}.`);
  $("progress", element).value = job.percent;
  for (const part of element.querySelectorAll("[data-field]"))
    part.textContent = job[part.dataset.field]?.toLocaleString() ?? "";
}

const update = async (path, method = "GET") => show(await (await call(method, `/jobs/${path}`)).json());

list.onclick = ({target}) => {
  const job = target.closest("li");
  const {method, action} = target.dataset;
  if (method) update(job.id + action, method).then(() => $("h3", job).focus(), (error) => notify(explain(error), "error"));
};

/** Show the first page of the list, or add the next one. Of several calls, the last one counts. */
async function load(next) {
  const number = ++loads;
  if (!can(list.dataset.scope)) return list.replaceChildren();
  try {
    const response = await call("GET", next || state.value);
    const jobs = await response.json();
    if (number !== loads) return;
    if (!next) list.replaceChildren();
    jobs.forEach(show);
    more.value = response.headers.get("Link")?.split(/[<>]/)[1].slice(root.length) ?? "";
    problem.textContent = "";
  } catch (error) {
    problem.textContent ||= explain(error);
  }
}

async function poll() {
  try {
    if (problem.textContent) await load();
    else if (!document.hidden) for (const {id} of list.querySelectorAll(OPEN)) await update(id);
  } catch (error) {
    problem.textContent = explain(error);
  }
  setTimeout(poll, 1500);
}

state.onchange = $("#refresh").onclick = () => load();
more.onclick = () => load(more.value);
start(() => load());
poll();
