// Tables: sorting, which the address knows: #sort.TABLE=down.COLUMN.

const plain = (cell) => cell.dataset.v ?? cell.textContent.trim();
const numeric = (text) => (text === "–" ? NaN : Number(text.replace("−", "-").replace(/[,%\s]/g, "")));

const unsorted = new WeakMap(); // the rows of a sorted table in their first order

const tableName = (table) => [table.dataset.name, table.closest("details.layer")?.dataset.layer].filter(Boolean).join("-");
const columnName = (header) => header.dataset.csv ?? header.textContent.trim();
const headersOf = (table) => [...one("thead", table).lastElementChild.cells];

/** Sorts by a column, named as in the address; by none, as it first was. */
function sort(table, wanted) {
  const [, way, name] = /^(up|down)\.(.*)$/s.exec(wanted) ?? [];
  const index = headersOf(table).findIndex((header) => columnName(header) === name);
  if ((table.dataset.sorted ?? "") === (index < 0 ? "" : wanted)) return;
  for (const header of headersOf(table)) header.removeAttribute("aria-sort");
  if (!unsorted.has(table)) unsorted.set(table, all("tbody tr", table));
  if (index < 0) {
    delete table.dataset.sorted;
    one("tbody", table).append(...unsorted.get(table));
    return;
  }
  table.dataset.sorted = wanted;
  headersOf(table)[index].setAttribute("aria-sort", way === "down" ? "descending" : "ascending");
  const keyed = unsorted.get(table).map((row) => [plain(row.cells[index]), row]);
  const numbers = keyed.every(([text]) => text === "–" || !Number.isNaN(numeric(text)));
  const sign = way === "down" ? -1 : 1;
  keyed.sort(([a], [b]) => {
    if (!numbers) return sign * a.localeCompare(b);
    const [x, y] = [numeric(a), numeric(b)];
    return Number.isNaN(x) - Number.isNaN(y) || sign * (x - y) || 0;
  });
  one("tbody", table).append(...keyed.map(([, row]) => row));
}

/** Sorts all tables as the address has it. */
function sortAll(wanted) {
  for (const table of all("table.sortable")) sort(table, wanted.get(`sort.${tableName(table)}`) ?? "");
}

function makeSortable(table) {
  for (const header of headersOf(table)) {
    if (header.ariaHidden === "true") continue; // over pictures
    const button = make("button", { type: "button", title: header.title }, ...header.childNodes);
    button.addEventListener("click", () => {
      const way = header.getAttribute("aria-sort") === "descending" ? "up" : "down";
      const wanted = `${way}.${columnName(header)}`;
      sort(table, wanted);
      note({ [`sort.${tableName(table)}`]: wanted });
    });
    header.replaceChildren(button);
  }
}
