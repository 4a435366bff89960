"use strict";
// Sorts a table by a column whose heading is pressed. Cells say their value in data-value.
function value(row, column) { return row.cells[column].dataset.value ?? ""; }
function compare(a, b) {
  return a !== "" && b !== "" && !isNaN(a) && !isNaN(b) ? a - b : a.localeCompare(b);
}
function sort(head, column) {
  const body = head.closest("table").tBodies[0];
  const now = head.getAttribute("aria-sort");
  // Names and ranks are first read upwards, everything else from the best down.
  const upwards = column === 0 || body.rows[0]?.cells[column].scope === "row";
  const up = now === null ? upwards : now === "descending";
  const rows = Array.from(body.rows).sort((a, b) => {
    const x = value(a, column), y = value(b, column);
    if (x === "" || y === "") return (x === "") - (y === "");  // what is missing comes last
    return up ? compare(x, y) : compare(y, x);
  });
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  body.append(...rows);
}
// Of many null controllers only the best is shown at first.
function fold(table) {
  const others = Array.from(table.querySelectorAll("tr.other-null"));
  if (others.length <= 3) return;
  const button = document.createElement("button");
  let shown = true;
  button.type = "button";
  button.className = "more";
  function toggle() {
    shown = !shown;
    for (const row of others) row.hidden = !shown;
    button.textContent = shown ? "Show only the best null controller"
      : "Show the other " + others.length + " null controllers";
    button.setAttribute("aria-expanded", shown);
  }
  button.addEventListener("click", toggle);
  toggle();
  table.closest(".scroll").after(button);
}
for (const table of document.querySelectorAll("table")) {
  Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
    head.querySelector("button")?.addEventListener("click", () => sort(head, column));
  });
  fold(table);
}
