// Contrast, depth strip, search.

function show(contrast) {
  root.dataset.shown = contrast;
  for (const button of all(".switch button")) button.setAttribute("aria-pressed", button.dataset.show === contrast);
}
for (const button of all(".switch button")) {
  button.addEventListener("click", () => {
    show(button.dataset.show);
    note({ contrast: button.dataset.show === "right" ? "" : button.dataset.show });
  });
}
const shownSection = () => one(`section[data-contrast="${root.dataset.shown}"]`);

for (const [name, index] of [["depth", 0], ["features", 1]]) {
  one(`nav a[href="#${name}"]`).addEventListener("click", (event) => {
    event.preventDefault();
    all("figure", shownSection())[index].scrollIntoView();
  });
}

/** Gives what the page says of a reading its behaviour; once, and before it is shown. */
function enliven(part) {
  for (const link of all("a[data-layer]", part)) followDepth(link);
  for (const table of all("table.sortable", part)) makeSortable(table);
  for (const section of all("section[data-contrast]", part)) makeSearchable(section);
  for (const button of all(".copy", part)) giveTable(button);
  for (const figure of all("figure", part)) giveFigure(figure);
}

// Depth strip: what is said of the layer that is pointed at, and arrow keys

function followDepth(link) {
  const readout = one(".readout", link.closest("figure"));
  const tell = () => {
    readout.textContent = link.getAttribute("aria-label");
    readout.classList.add("on");
  };
  const rest = () => readout.classList.remove("on");
  link.addEventListener("pointerleave", rest);
  link.addEventListener("blur", rest);
  link.addEventListener("pointerenter", tell);
  link.addEventListener("focus", tell);
  link.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    const links = all("a[data-layer]", link.ownerSVGElement);
    links[links.indexOf(link) + step]?.focus();
    event.preventDefault();
  });
}

// Searching the tables of features

/** Shows the features whose id begins with a text, or whose description has it, in the tables of both contrasts. */
function search(text) {
  const wanted = text.trim().toLowerCase();
  if (wanted === (root.dataset.search ?? "")) return;
  root.dataset.search = wanted;
  for (const section of all("section[data-contrast]")) searchIn(section, wanted);
}

function searchIn(section, wanted) {
  const input = one(".search", section);
  if (document.activeElement !== input) input.value = wanted;
  let found = 0;
  for (const row of all("table.features tbody tr", section)) {
    const id = row.dataset.feature.split("/")[1];
    const words = one(".words", row)?.textContent.toLowerCase() ?? "";
    row.hidden = wanted !== "" && !id.startsWith(wanted) && !words.includes(wanted);
    found += !row.hidden && Boolean(row.id);
  }
  for (const layer of all("details.layer", section)) {
    const rows = all("tbody tr", layer);
    layer.hidden = wanted !== "" && rows.every((row) => row.hidden);
    layer.open = wanted !== "" && !layer.hidden;
  }
  one(".found", section).textContent = wanted === "" ? "" : `${found} of the features in the layers’ tables`;
}

function makeSearchable(section) {
  const input = one(".search", section);
  input.addEventListener("input", () => { search(input.value); note({ search: input.value.trim() }); });
}
