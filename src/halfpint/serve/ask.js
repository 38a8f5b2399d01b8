// What every page has that asks a model for the labels of a text. The page's own script has `show(answer)`, `route`,
// `extra` (more fields of the request) and `about(health)`.
const at = (id) => document.getElementById(id);
let keyNeeded = false, last = "";

function fault(text) {
  at("fault").textContent = text;
  at("fault").hidden = !text;
}

function told(answer) {
  at("latency").textContent = `Took ${answer.latency_ms < 10 ? answer.latency_ms.toFixed(1) : Math.round(answer.latency_ms)} ms`;
  const body = JSON.stringify({text: last}).replaceAll("'", "'\\''");
  const key = keyNeeded ? " \\\n  -H 'Authorization: Bearer YOUR_KEY'" : "";
  at("curl").textContent =
    `curl ${new URL(route, location.href)}${key} \\\n  -H 'Content-Type: application/json' \\\n  -d '${body}'`;
  at("result").hidden = false;
}

async function ask(text, more) {
  fault("");
  at("go").disabled = true;
  last = text;
  try {
    const headers = {"Content-Type": "application/json"};
    // A header carries bytes: the key goes as UTF-8.
    if (at("key").value) headers["X-API-Key"] = String.fromCharCode(...new TextEncoder().encode(at("key").value));
    const answer = await fetch(route, {method: "POST", headers, body: JSON.stringify({text, ...more})});
    const found = await answer.json();
    if (answer.ok) { show(found); told(found); }
    else fault(found.error.message);
  } catch (error) {
    fault(`The server did not answer. (${error.message})`);
  }
  at("go").disabled = false;
}

function submit() {
  const text = at("text").value;
  if (!text.trim()) {
    fault("Type a text first.");
    at("text").focus();
  } else if (!at("go").disabled) ask(text, extra);
}

async function start() {
  try {
    const health = await (await fetch("health")).json();
    at("model").textContent = health.model;
    document.title = `${health.model} – halfpint`;
    keyNeeded = health.api_key;
    at("key-field").hidden = !keyNeeded;
    if (health.status === "ok") {
      at("status").textContent = about(health);
      at("go").disabled = false;
      const asked = new URLSearchParams(location.search).get("text");
      if (asked && asked.trim() && !keyNeeded) ask(asked, extra);
      return;
    }
    at("status").textContent =
      health.status === "loading" ? "The model is loading…" : "The model could not be loaded. The server's log says why.";
  } catch {
    at("status").textContent = "The server does not answer. Trying again…";
  }
  setTimeout(start, 1000);
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(); }
});
at("text").value = new URLSearchParams(location.search).get("text") || "";
start();
