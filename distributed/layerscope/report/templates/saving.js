// What one takes away: figures as SVG, PNG and numbers, tables as CSV.

const DRAWN = ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight", "letter-spacing"];
const LEGEND = { left: 50, row: 22, swatch: 44, letter: 6.4 };

const inFile = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "layerscope";

function download(name, content, type) {
  const link = make("a", { download: name, href: URL.createObjectURL(new Blob([content], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Puts a text on the clipboard, or where a person can copy it. */
async function give(text, button) {
  const words = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = words; }, 2000);
  } catch { // a browser may refuse; then a person copies
    one("textarea", button.parentElement)?.remove();
    const area = make("textarea", { readOnly: true, value: text, ariaLabel: "CSV: copy with Ctrl+C" });
    button.parentElement.append(area);
    area.select();
  }
}

// Tables

/** A cell for CSV: numbers bare; words quoted, and kept from being taken for a formula. */
function csvCell(cell) {
  const text = plain(cell);
  if (text === "–") return "";
  if (!Number.isNaN(numeric(text)) && text !== "") return String(numeric(text));
  return `"${text.replace(/^[=+\-@\t]/, "'$&").replaceAll('"', '""')}"`;
}

function csv(table) {
  const names = all("thead tr:last-child th", table).map((header) => header.dataset.csv ?? `"${header.textContent.trim()}"`);
  const layer = table.closest("details.layer")?.dataset.layer;
  const rows = all("tbody tr", table).filter((row) => !row.hidden).map((row) => [...row.cells].filter((cell) => cell.ariaHidden !== "true").map(csvCell));
  const lines = [names, ...rows].map((cells, index) => (layer ? [index ? layer : "layer", ...cells] : cells).join(","));
  return `${lines.join("\r\n")}\r\n`;
}

function giveTable(button) {
  const table = one("table", button.parentElement.previousElementSibling);
  button.addEventListener("click", () => give(csv(table), button));
  const layer = table.closest("details.layer")?.dataset.layer;
  const name = inFile(["features", table.dataset.name ?? "", layer ? `layer-${layer}` : "", root.dataset.reading].join(" "));
  const save = make("button", { type: "button", className: "download" }, "Download CSV");
  save.addEventListener("click", () => download(`${name}.csv`, csv(table), "text/csv"));
  button.after(save);
}

// Figures

/** The chart as it is seen, with all that the page's styles say of it in its own marks, and its legend below. */
function picture(chart, figure) {
  const made = chart.cloneNode(true);
  const [from, to] = [[chart, ...all("*", chart)], [made, ...all("*", made)]];
  from.forEach((element, index) => settle(element, to[index]));
  const [width, height] = ["width", "height"].map((name) => Number(chart.getAttribute(name)));
  let [x, y] = [LEGEND.left, height];
  const entries = all(".legend > *", figure);
  for (const entry of entries) {
    const words = entry.textContent.trim();
    const room = LEGEND.swatch + LEGEND.letter * words.length;
    if (x + room > width && x > LEGEND.left) [x, y] = [LEGEND.left, y + LEGEND.row];
    const swatch = one("svg", entry);
    const group = draw("g", { transform: `translate(${x} ${y + 4})` });
    if (swatch) {
      const marks = swatch.cloneNode(true);
      all("*", swatch).forEach((element, index) => settle(element, all("*", marks)[index]));
      group.append(...marks.childNodes);
    }
    const said = draw("text", { x: swatch ? LEGEND.swatch - 8 : 0, y: 11, "font-size": "12px", fill: getComputedStyle(entry).color, "font-family": getComputedStyle(entry).fontFamily }, words);
    group.append(said);
    made.append(group);
    x += room;
  }
  const whole = entries.length ? y + LEGEND.row + 4 : height;
  for (const link of all("a", made)) {
    const group = draw("g", {});
    group.append(...link.childNodes);
    link.replaceWith(group);
  }
  made.prepend(draw("title", {}, titleOf(figure)), draw("rect", { width: "100%", height: "100%", fill: getComputedStyle(document.body).backgroundColor }));
  for (const name of [...made.attributes].map((attribute) => attribute.name)) made.removeAttribute(name);
  for (const [name, value] of Object.entries({ xmlns: SVG, role: "img", viewBox: `0 0 ${width} ${whole}`, width, height: whole })) made.setAttribute(name, value);
  return { width, height: whole, svg: new XMLSerializer().serializeToString(made) };
}

function settle(element, copy) {
  const style = getComputedStyle(element);
  for (const name of DRAWN) {
    const value = style.getPropertyValue(name);
    if (value && value !== "none" && value !== "normal") copy.setAttribute(name, value);
    else if (value === "none") copy.setAttribute(name, value);
  }
  if (style.whiteSpace === "pre") copy.setAttribute("xml:space", "preserve");
  for (const name of ["class", "tabindex", "aria-label", "data-row", "data-columns", "data-layer"]) copy.removeAttribute(name);
}

const titleOf = (figure) => one("h2, h3", figure)?.textContent.trim() ?? "";
const chartOf = (figure) => all("svg.chart", figure).find((chart) => chart.getBoundingClientRect().width > 0);

async function png({ width, height, svg }) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = make("canvas", { width: 2 * width, height: 2 * height });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/png"); });
}

/** The numbers that a figure shows: its table, or what its marks hold. */
function numbersOf(figure) {
  const table = one("table", figure);
  if (table) return csv(table);
  const chart = one("svg.chart.wide, svg.chart", figure);
  const rows = all("[data-row]", chart).map((mark) => mark.dataset.row);
  const said = () => ["mark", ...all("title", chart).map((title) => `"${title.textContent.replaceAll('"', '""')}"`)];
  return `${(rows.length ? [chart.dataset.columns, ...rows] : said()).join("\r\n")}\r\n`;
}

function giveFigure(figure) {
  const charts = all("svg.chart", figure);
  if (!charts.length || one("table svg.chart", figure)) return;
  const name = () => inFile(titleOf(figure));
  const button = (words, act) => {
    const made = make("button", { type: "button" }, words);
    made.addEventListener("click", () => act(made));
    return made;
  };
  (one(".legend", figure) ?? charts.at(-1)).after(make("p", { className: "take-away" },
    button("SVG", () => download(`${name()}.svg`, picture(chartOf(figure), figure).svg, "image/svg+xml")),
    button("PNG", async () => download(`${name()}.png`, await png(picture(chartOf(figure), figure)), "image/png")),
    button("Copy data", (made) => give(numbersOf(figure), made))));
}
