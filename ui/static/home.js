import {$, notify} from "./dom.js";
import {root} from "./session.js";

const health = $("#health");

async function check() {
  try {
    const response = await fetch(`${root}/health`);
    const {status, cassandra, nodes} = await response.json();
    health.className = `panel ${response.ok ? "good" : "bad"}`;
    const down = nodes.down ? `, ${nodes.down} down` : "";
    const up = `${nodes.up} ${nodes.up === 1 ? "node is" : "nodes are"} up`;
    health.textContent = `The service is ${status}. Cassandra is ${cassandra}: ${up}${down}.`;
  } catch {
    health.className = "panel bad";
    health.textContent = "The service can't be reached.";
  }
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText($("pre", button.parentElement).textContent);
    notify("Copied.");
  });
}
check();
setInterval(check, 10_000);
