// Columns sort by a click or a key on their heading: numbers by value, what is missing last.
const NUMBER = /^[<>×±▲▼≈?\s]*([+-]?\d*\.?\d+(?:e[+-]?\d+)?)(?=$|[\s%,;(])/i;
const textOf = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.value ?? cell.textContent.trim();
};
const numberOf = (text) => {
  const found = text.replaceAll("−", "-").replace(/(\d),(?=\d{3})/g, "$1").match(NUMBER);
  return found ? Number(found[1]) : NaN;
};
function sort(heading) {
  const column = heading.cellIndex, table = heading.closest("table"), body = table.tBodies[0];
  const down = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const rows = [...body.rows].map((row) => ({ row, text: textOf(row, column) }));
  const there = rows.filter((r) => !["", "–", "nan"].includes(r.text));
  const numeric = there.every((r) => !Number.isNaN(numberOf(r.text)));
  there.sort((a, b) => down * (numeric ? numberOf(a.text) - numberOf(b.text) : a.text.localeCompare(b.text)));
  const missing = rows.filter((r) => !there.includes(r));
  body.append(...[...there, ...missing].map((r) => r.row));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
}
for (const heading of document.querySelectorAll("table.sortable thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...[...heading.childNodes].filter((node) => node.nodeName !== "SMALL"));
  button.addEventListener("click", () => sort(heading));
  heading.prepend(button);
}
