// A page with one table to filter (of changed questions, of runs), and the address, which knows what it is filtered by.

for (const table of all("table.sortable")) makeSortable(table);
for (const button of all(".copy")) giveTable(button);
for (const figure of all("figure")) giveFigure(figure);

const only = one("[name=only]");
const word = one("[name=word]");

function filter() {
  const wanted = word.value.trim().toLowerCase();
  const rows = all("table.filtered tbody tr");
  for (const row of rows) {
    const words = all(".words", row).some((cell) => cell.textContent.toLowerCase().includes(wanted));
    row.hidden = !((!only?.value || row.dataset.right === only.value) && words);
  }
  const found = rows.filter((row) => !row.hidden).length;
  one(".found").textContent = found === rows.length ? "" : `${found} of ${rows.length}`;
}

function follow() {
  const wanted = state();
  sortAll(wanted);
  if (!word) return;
  if (only) only.value = ["a", "b"].includes(wanted.get("only")) ? wanted.get("only") : "";
  if (document.activeElement !== word) word.value = wanted.get("word") ?? "";
  filter();
}

only?.addEventListener("change", () => { filter(); note({ only: only.value }); });
word?.addEventListener("input", () => { filter(); note({ word: word.value.trim() }); });
window.addEventListener("hashchange", follow);
document.addEventListener("click", (event) => { // sections are no state, and the filters are to stay in the address
  const section = event.target.closest?.('nav a[href^="#"]')?.getAttribute("href");
  if (!section || event.ctrlKey || event.metaKey || event.shiftKey) return;
  one(section).scrollIntoView();
  event.preventDefault();
});
follow();
