// Titles of sortable tables become buttons; without this script the tables read the same, in the order given.
for (const table of document.querySelectorAll("table.sort")) {
  const titles = [...table.tHead.rows[0].cells];
  titles.forEach((title, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...title.childNodes);
    title.append(button);
    button.addEventListener("click", () => {
      const up = title.getAttribute("aria-sort") !== "ascending";
      titles.forEach((other) => other.removeAttribute("aria-sort"));
      title.setAttribute("aria-sort", up ? "ascending" : "descending");
      const body = table.tBodies[0];
      const keyed = [...body.rows].map((row) => {
        const cell = row.cells[at];
        return { row, by: "v" in cell.dataset ? cell.dataset.v : (cell.firstChild?.textContent ?? "").trim() };
      });
      const figures = keyed.every(({ by }) => by === "" || !Number.isNaN(Number(by)));
      keyed.sort((a, b) => {
        if (a.by === "" || b.by === "") return (a.by === "") - (b.by === "");
        const order = figures ? a.by - b.by : a.by.localeCompare(b.by);
        return up ? order : -order;
      });
      body.append(...keyed.map(({ row }) => row));
    });
  });
}
