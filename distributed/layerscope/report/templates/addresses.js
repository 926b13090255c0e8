// Addresses within the page, the readings it turns to, and the start.

// Deep links: #contrast=chosen, #layer=20, #layer=20&feature=5, #q=1714, #q=1714&layer=20, #fires=20/5; each may begin
// with reading=max, and without means the first reading of the page.

const first = root.dataset.reading;
const shown = new Map(); // by reading: its header, its sections, and its question browser, which comes later
const chooser = one("select[name=reading]");
let wantedReading = first;

function addressIn(reading, place) {
  return reading === first ? `#${place}` : `#reading=${reading}&${place}`;
}

function addReading(reading, header, main) {
  for (const part of [header, main]) enliven(part);
  const browses = one("#plain-questions table", main) ? load(reading).then((data) => browser(data, main)) : null;
  shown.set(reading, { header, main, browses });
}

async function unpackReading(reading) {
  const parsed = new DOMParser().parseFromString(await unpackText(`body-${reading}`), "text/html");
  const [header, main] = ["header", "main"].map((name) => document.adoptNode(one(name, parsed)));
  for (const link of all('a[href^="#"]', main)) {
    const place = link.getAttribute("href").slice(1);
    if (place.includes("=")) link.setAttribute("href", addressIn(reading, place));
  }
  addReading(reading, header, main);
}

/** Shows the sections of a reading, which keep what was opened and typed in them. */
async function turnTo(reading) {
  wantedReading = reading;
  if (reading === root.dataset.reading) return;
  if (!shown.has(reading)) await unpackReading(reading);
  if (wantedReading !== reading || reading === root.dataset.reading) return; // somebody was quicker
  const { header, main } = shown.get(reading);
  one("header").replaceWith(header);
  one("main").replaceWith(main);
  root.dataset.reading = chooser.value = reading;
}

async function follow() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (/^\d+$/.test(wanted.get(name) ?? "") ? Number(wanted.get(name)) : null);
  if (chooser && (location.hash === "" || location.hash.includes("="))) {
    const reading = wanted.get("reading") ?? first;
    if ([...chooser.options].some((option) => option.value === reading)) await turnTo(reading);
  }
  if (["right", "chosen"].includes(wanted.get("contrast"))) show(wanted.get("contrast"));
  const questions = await shown.get(root.dataset.reading)?.browses;
  if (number("q") !== null) {
    questions?.go(number("q"), number("layer"));
  } else if (/^\d+\/\d+$/.test(wanted.get("fires") ?? "")) {
    questions?.filterBy(...wanted.get("fires").split("/").map(Number));
  } else if (number("layer") !== null) {
    const layer = one(`details.layer[data-layer="${number("layer")}"]`, shownSection());
    if (!layer) return;
    layer.open = true;
    const row = one(`tr[data-feature="${number("layer")}/${number("feature")}"]`, layer);
    for (const marked of all("tr.marked")) marked.classList.remove("marked");
    row?.classList.add("marked");
    (row ?? layer).scrollIntoView({ block: row ? "center" : "start" });
    (row ? one("a", row) ?? one(".scroll", layer) : one("summary", layer)).focus({ preventScroll: true });
  } else if (wanted.has("contrast")) {
    shownSection().scrollIntoView();
  }
}

show("right");
for (const part of all("#readings, #dictionaries")) enliven(part);
if ("DecompressionStream" in window) {
  addReading(first, one("header"), one("main"));
} else {
  for (const part of [one("header"), one("main")]) enliven(part);
  one("#plain-questions").prepend(make("p", { className: "warnings" }, "This browser cannot unpack the other questions and readings (it lacks DecompressionStream); a current one can."));
  if (chooser) chooser.disabled = true;
}
chooser?.addEventListener("change", () => { location.hash = `reading=${chooser.value}`; });
window.addEventListener("hashchange", follow);
follow();
