// What every page has that asks a model for the labels of a text. The page's own script has `show(answer)`, `route`,
// `extra` (more fields of the request) and `about(health)`.
const at = (id) => document.getElementById(id);
let keyNeeded = false, last = "", mostTexts = 1, table = null;

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

function post(body) {
  const headers = {"Content-Type": "application/json"};
  // A header carries bytes: the key goes as UTF-8.
  if (at("key").value) headers["X-API-Key"] = String.fromCharCode(...new TextEncoder().encode(at("key").value));
  return fetch(route, {method: "POST", headers, body: JSON.stringify(body)});
}

// The rows of a CSV file, its delimiter the one that its first line has most of.
function rowsOf(text) {
  const head = text.split("\n", 1)[0];
  const delimiter = [",", ";", "\t"].reduce((best, one) => head.split(one).length > head.split(best).length ? one : best);
  const rows = [[]];
  let cell = "", quoted = false;
  for (let place = 0; place < text.length; place++) {
    const char = text[place];
    if (quoted) {
      if (char !== '"') cell += char;
      else if (text[place + 1] === '"') { cell += char; place++; }
      else quoted = false;
    } else if (char === '"' && !cell) quoted = true;
    else if (char === delimiter || char === "\n") {
      rows.at(-1).push(cell.replace(/\r$/, ""));
      cell = "";
      if (char === "\n") rows.push([]);
    } else cell += char;
  }
  rows.at(-1).push(cell);
  return {delimiter, rows: rows.filter((row) => row.length > 1 || row[0].trim())};
}

function csvOf({delimiter, rows}) {
  const cell = (value) => /["\r\n,;\t]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
  return "\ufeff" + rows.map((row) => row.map((one) => cell(String(one ?? ""))).join(delimiter) + "\r\n").join("");
}

async function choose() {
  const file = at("file").files[0];
  at("table-state").textContent = "";
  if (!file) return;
  table = {name: file.name, ...rowsOf((await file.text()).replace(/^\ufeff/, ""))};
  const names = table.rows[0] || [];
  at("column").replaceChildren(...names.map((name, place) => new Option(name || `column ${place + 1}`, place)));
  const long = (place) => table.rows.slice(1, 50).reduce((sum, row) => sum + (row[place] || "").length, 0);
  at("column").value = names.reduce((best, _, place) => long(place) > long(best) ? place : best, 0);
  at("rows").disabled = at("go").disabled || table.rows.length < 2;
}

async function answerRows() {
  const column = Number(at("column").value), [head, ...rows] = table.rows, made = [];
  at("rows").disabled = true;
  try {
    for (let first = 0; first < rows.length; first += mostTexts) {
      const some = rows.slice(first, first + mostTexts).map((row) => row[column] || "");
      const texts = some.filter((text) => text.trim());
      let results = [];
      if (texts.length) {
        const answer = await post({texts, ...rowExtra}), found = await answer.json();
        if (!answer.ok) throw new Error(found.error.message);
        results = found.results;
      }
      made.push(...some.map((text) => text.trim() ? cellsOf(results.shift()) : {}));
      at("table-state").textContent = `${made.length} of ${rows.length} rows`;
    }
    const more = Object.keys(made.find((one) => Object.keys(one).length) || {});
    const labelled = rows.map((row, place) => [...row, ...Array(Math.max(0, head.length - row.length)).fill(""),
                                               ...more.map((name) => made[place][name] ?? "")]);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csvOf({...table, rows: [[...head, ...more], ...labelled]})], {type: "text/csv"}));
    link.download = link.textContent = table.name.replace(/(\.\w+)?$/, "-labelled.csv");
    at("table-state").replaceChildren(`${rows.length} rows: `, link);
  } catch (error) {
    fault(`Row ${made.length + 2} and on were not answered. (${error.message})`);
  }
  at("rows").disabled = false;
}

async function ask(text, more) {
  fault("");
  at("go").disabled = true;
  last = text;
  try {
    const answer = await post({text, ...more});
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
    at("model").textContent = health.title;
    document.title = `${health.title} – halfpint`;
    at("report").hidden = !health.report;
    mostTexts = Math.min(64, health.max_batch || 1);
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

at("file").addEventListener("change", choose);
at("rows").addEventListener("click", answerRows);
at("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
at("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(); }
});
at("text").value = new URLSearchParams(location.search).get("text") || "";
start();
