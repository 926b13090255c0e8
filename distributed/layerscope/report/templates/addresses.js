// The address, which holds a place in the page and the state of every filter; the readings; the start.

// Places: #contrast=chosen, #layer=20, #layer=20&feature=5 (a table's row), #feature=20/5 (its panel), #q=1714,
// #q=1714&layer=20&shade=20/5, #fires=20/5; each may begin with reading=max, and without means the page's first reading.

const first = root.dataset.reading;
const shown = new Map(); // by reading: its header, its sections, and its question browser, which comes later
const chooser = one("select[name=reading]");
const PLACE = ["q", "layer", "feature", "shade"];
const OF_BROWSER = /^(wrong|order|word|fires|page|by\..*)$/;
let wantedReading = first;
let place = ""; // where the page was last brought to

function addressIn(reading, address) {
  return reading === first ? `#${address}` : `#reading=${reading}&${address}`;
}

/** Goes to a place as a link names it; filters stay as they are, and a feature opens over where one is. */
function go(target) {
  const params = new URLSearchParams();
  for (const [name, value] of state()) {
    const stays = PLACE.includes(name) ? target.get("feature")?.includes("/") : !(target.has("fires") && OF_BROWSER.test(name));
    if (stays && name !== "reading" && !target.has(name)) params.append(name, value);
  }
  for (const [name, value] of target) params.set(name, value);
  const hash = `#${written(params)}`;
  if ([...target.keys()].every((name) => name === "reading" || name.startsWith("by."))) one("#browser").scrollIntoView();
  if (hash === location.hash) { place = ""; follow(); } else { location.hash = hash; }
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.('a[href^="#"]');
  if (!link || event.defaultPrevented || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const target = link.getAttribute("href").slice(1);
  const named = target.includes("=") ? null : document.getElementById(target);
  if (named) { // the sections are no state, and the filters are to stay in the address
    named.scrollIntoView();
    if (link.className === "skip") named.focus();
  } else if (link.closest("svg") && /layer=.*feature=/.test(target)) {
    const of = new URLSearchParams(target);
    go(new URLSearchParams({ ...(of.has("reading") && { reading: of.get("reading") }), feature: `${of.get("layer")}/${of.get("feature")}` }));
  } else {
    go(new URLSearchParams(target));
  }
  event.preventDefault();
});

function addReading(reading, header, main) {
  for (const part of [header, main]) enliven(part);
  const browses = one("#plain-questions table", main) ? load(reading).then((data) => {
    (window.requestIdleCallback ?? setTimeout)(() => ready(data));
    return browser(data, main);
  }) : null;
  shown.set(reading, { header, main, browses });
}

async function unpackReading(reading) {
  const parsed = new DOMParser().parseFromString(await unpackText(`body-${reading}`), "text/html");
  const [header, main] = ["header", "main"].map((name) => document.adoptNode(one(name, parsed)));
  for (const link of all('a[href^="#"]', main)) {
    const address = link.getAttribute("href").slice(1);
    if (address.includes("=")) link.setAttribute("href", addressIn(reading, address));
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

const pairOf = (text) => (/^\d+\/\d+$/.test(text ?? "") ? text.split("/").map(Number) : null);

async function follow() {
  if (location.hash !== "" && !location.hash.includes("=")) return; // a section
  const wanted = state();
  const number = (name) => (/^\d+$/.test(wanted.get(name) ?? "") ? Number(wanted.get(name)) : null);
  if (chooser) {
    const reading = wanted.get("reading") ?? first;
    if ([...chooser.options].some((option) => option.value === reading)) await turnTo(reading);
  }
  show(wanted.get("contrast") === "chosen" ? "chosen" : "right");
  search(wanted.get("search") ?? "");
  sortAll(wanted);
  const questions = await shown.get(root.dataset.reading)?.browses;
  questions?.apply(wanted);
  const feature = pairOf(wanted.get("feature"));
  const goesTo = written([...wanted].filter(([name]) => ["reading", "contrast", "fires", ...PLACE].includes(name) && !(feature && name === "feature")));
  if (goesTo !== place) bringTo(wanted, number, questions);
  place = goesTo;
  await showPanel(questions?.data, feature);
}

function bringTo(wanted, number, questions) {
  const fires = pairOf(wanted.get("fires"));
  const row = pairOf(wanted.get("feature")) ? null : number("feature");
  if (number("q") !== null) {
    questions?.go(number("q"), number("layer"), wanted.get("shade"));
  } else if (fires && number("layer") === null) {
    questions?.goToFirst(fires[0]);
  } else if (number("layer") !== null) {
    const layer = one(`details.layer[data-layer="${number("layer")}"]`, shownSection());
    if (!layer) return;
    layer.open = true;
    const marked = row === null ? null : one(`tr[data-feature="${number("layer")}/${row}"]`, layer);
    for (const other of all("tr.marked")) other.classList.remove("marked");
    marked?.classList.add("marked");
    (marked ?? layer).scrollIntoView({ block: marked ? "center" : "start" });
    (marked ? one("a", marked) : one("summary", layer)).focus({ preventScroll: true });
  } else if (wanted.has("contrast") && !wanted.has("feature")) {
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
chooser?.addEventListener("change", () => go(new URLSearchParams({ reading: chooser.value })));
window.addEventListener("hashchange", follow);
follow();
