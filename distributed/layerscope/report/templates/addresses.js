// Addresses within the page, and the start.

// Deep links: #contrast=chosen, #layer=20, #layer=20&feature=5, #q=1714, #q=1714&layer=20, #fires=20/5

let loaded = null;

async function follow() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (/^\d+$/.test(wanted.get(name) ?? "") ? Number(wanted.get(name)) : null);
  if (["right", "chosen"].includes(wanted.get("contrast"))) show(wanted.get("contrast"));
  const questions = await loaded;
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
if (one("#plain-questions table")) {
  if ("DecompressionStream" in window) {
    loaded = load().then(browser);
  } else {
    one("#plain-questions").prepend(make("p", { className: "warnings" }, "This browser cannot unpack the other questions (it lacks DecompressionStream); a current one can."));
  }
}
window.addEventListener("hashchange", follow);
follow();
