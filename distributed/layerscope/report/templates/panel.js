// The feature panel: all that the page knows of one feature, over what one was looking at.

const AT_ONCE = 12;
const NEAR = 12;
const panel = make("dialog", { id: "panel", aria: { "aria-labelledby": "panel-title" } });
document.body.append(panel);

function leavePanel() {
  const params = state();
  params.delete("feature");
  history.pushState(null, "", `${location.href.split("#")[0]}${params.size ? `#${written(params)}` : ""}`);
  panel.close();
}

panel.addEventListener("cancel", (event) => { event.preventDefault(); leavePanel(); });
panel.addEventListener("click", (event) => { if (event.target === panel) leavePanel(); });

/** Reads what the panels of a reading say, so that the first opens as fast as the others. */
async function ready(data) {
  data.told ??= JSON.parse(await unpackText(`told-${data.reading}`));
  data.index ??= indexed(data);
}

async function showPanel(data, feature) {
  if (!data || !feature || !data.layers.includes(feature[0])) {
    if (panel.open) panel.close();
    return;
  }
  await ready(data);
  panel.replaceChildren(...panelOf(data, ...feature));
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
  one("#panel-title").focus();
}

function panelOf(data, layer, id) {
  const name = `${layer}/${id}`;
  const { told } = data;
  const at = told.names.indexOf(name);
  const whole = Boolean(data.tracked[layer]?.includes(id));
  const fired = firings(data, layer, id);
  const url = data.pages[layer];
  const [words, source] = told.words[name] ?? [];
  const close = make("button", { type: "button", className: "close" }, "Close");
  close.addEventListener("click", leavePanel);
  const pages = [
    ...(url ? [make("a", { href: url + id, target: "_blank", rel: "noopener noreferrer" }, "Its page on Neuronpedia")] : []),
    make("a", { href: addressIn(data.reading, `fires=${name}`) }, "Its questions in the browser"),
    make("a", { href: addressIn(data.reading, `layer=${layer}`) }, `The table of layer ${layer}`)];
  return [
    make("div", { className: "panel-head" }, make("h2", { id: "panel-title", tabIndex: -1 }, `Feature ${id} of layer ${layer}`), close),
    ...(words ? [make("p", { className: "explained" }, make("q", { dir: "auto" }, words), make("small", {}, ` ${source}`))] : []),
    make("p", { className: "links-out" }, ...pages),
    ...(told.told[name] ?? []).map((sentence) => make("p", {}, sentence)),
    ...(at < 0
      ? [make("p", { className: "how" }, "What the tests say of it is not in the page: it has too few pairs, or is neither selected nor among the surest of its layer.")]
      : [make("ul", { className: "states" }, ...told.contrasts.map((contrast) => stateOf(contrast, at)))]),
    ...(whole ? [] : [make("p", { className: "warnings" }, "Only the questions on which it is among the strongest of its layer are here: its other firings are not in the page.")]),
    ...(fired.length ? [histogram(fired)] : []),
    ...questionsOf(data, layer, id, fired),
    ...(whole && fired.length ? nearOf(data, layer, id) : []),
    ...(at < 0 ? [] : [make("h3", {}, "Its numbers"), make("div", { className: "both-contrasts" }, ...told.contrasts.map((contrast) => contrastOf(contrast, at)))])];
}

/** What a contrast says of it in a line. */
function stateOf(contrast, at) {
  const cell = (csv) => contrast.cells[contrast.columns.findIndex((column) => column.csv === csv)][at];
  const second = contrast.columns[1].name;
  return make("li", { className: `of-${contrast.first}` }, make("b", {}, contrast.name), ` · ${contrast.states[at] || "not selected"} · fires on ${contrast.first} ${cell(`${contrast.first}_fires`)}, ${second} ${cell(`${second}_fires`)} · log-odds ${cell("log_odds_discovery")} on the half that selects, ${cell("log_odds_validation")} on the other`);
}

/** One contrast's numbers, as the tables have them. */
function contrastOf(contrast, at) {
  const state = contrast.states[at];
  const rows = contrast.columns.map(({ group, name, hint }, column) =>
    make("tr", {}, make("th", { scope: "row", title: hint }, group ? `${group}: ${name}` : name), make("td", {}, contrast.cells[column][at])));
  return make("div", { className: `of-${contrast.first}` },
    make("table", { className: "numbers" }, make("caption", {}, make("b", {}, contrast.name), ` · ${state || "not selected"}`), make("tbody", {}, ...rows)));
}

/** The questions of the page on which a feature fires, the strongest first. */
function firings(data, layer, id) {
  const found = [];
  const layerIndex = data.layers.indexOf(layer);
  for (const question of data.questions) {
    const entry = data.entry(question, layerIndex, id);
    if (entry < 0) continue;
    const levels = data.levels.map((side) => side[entry]);
    if (levels[0] > 1 || levels[1] > 1) found.push({ question, levels, activations: levels.map(data.activation) });
  }
  return found.sort((a, b) => Math.max(...b.activations) - Math.max(...a.activations));
}

/** Right solutions upwards, wrong ones downwards, by activation. */
function histogram(fired) {
  const [bins, width, half] = [32, innerWidth < 720 ? 340 : 600, 62];
  const sides = SIDES.map((_, side) => fired.map(({ activations }) => activations[side]).filter((value) => value > 0));
  const highest = Math.max(...sides.flat());
  const counts = sides.map((values) => {
    const found = new Array(bins).fill(0);
    for (const value of values) found[Math.min(Math.floor((bins * value) / highest), bins - 1)] += 1;
    return found;
  });
  const most = Math.max(...counts.flat());
  const marks = counts.flatMap((found, side) => found.map((count, bin) => {
    const height = (half * count) / most;
    return draw("rect", { class: side ? "second" : "first", x: 40 + ((width - 40) * bin) / bins, width: (width - 40) / bins - 1, y: side ? half + 20 : half + 20 - height, height });
  }));
  const label = (x, y, text, anchor = "start") => draw("text", { class: "note", x, y, "text-anchor": anchor }, text);
  const end = 2 * half + 20;
  return draw("svg", { class: "chart", viewBox: `0 0 ${width} ${end + 24}`, width, height: end + 24, role: "img",
    "aria-label": `Activations up to ${short(highest)}: ${sides[0].length} right solutions, ${sides[1].length} wrong ones` },
  ...marks, draw("path", { class: "zero", d: `M40 ${half + 20}H${width}` }),
  label(0, 34, String(most)), label(0, end, String(most)), label(40, 12, `on ${sides[0].length} right solutions, upwards; on ${sides[1].length} wrong ones, downwards`),
  label(40, end + 18, "activation 0"), label(width, end + 18, short(highest), "end"));
}

/** Of every entry which tracked feature it is, and on how many solutions each fires. */
function indexed(data) {
  const names = [];
  const known = data.layers.map((layer) => new Map((data.tracked[layer] ?? []).map((id) => [id, names.push(`${layer}/${id}`) - 1])));
  const of = new Int32Array(data.ids.length).fill(-1);
  const solutions = new Uint32Array(names.length);
  for (let cell = 0; cell + 1 < data.starts.length; cell += 1) {
    const here = known[cell % data.layers.length];
    for (let entry = data.starts[cell]; entry < data.starts[cell + 1]; entry += 1) {
      const number = here.get(data.ids[entry]) ?? -1;
      of[entry] = number;
      if (number >= 0) solutions[number] += (data.levels[0][entry] > 1) + (data.levels[1][entry] > 1);
    }
  }
  return { names, of, solutions };
}

/** The features that fire on the same solutions, of those whose every firing is in the page. */
function nearOf(data, layer, id) {
  const { names, of, solutions } = data.index;
  const own = names.indexOf(`${layer}/${id}`);
  const layerIndex = data.layers.indexOf(layer);
  const common = new Uint32Array(names.length);
  for (const question of data.questions) {
    const entry = data.entry(question, layerIndex, id);
    if (entry < 0) continue;
    const begin = question.index * data.layers.length;
    for (let side = 0; side < 2; side += 1) {
      if (data.levels[side][entry] < 2) continue;
      for (let other = data.starts[begin]; other < data.starts[begin + data.layers.length]; other += 1) {
        if (of[other] >= 0 && data.levels[side][other] > 1) common[of[other]] += 1;
      }
    }
  }
  const share = (number) => common[number] / (solutions[own] + solutions[number] - common[number]);
  const near = names.map((_, number) => number).filter((number) => number !== own && common[number] > 2)
    .sort((a, b) => share(b) - share(a)).slice(0, NEAR);
  if (!near.length) return [];
  const rows = near.map((number) => make("tr", {},
    make("th", { scope: "row" }, make("a", { href: addressIn(data.reading, `feature=${names[number]}`) }, names[number])),
    make("td", {}, share(number).toFixed(2)), make("td", {}, `${common[number]} of ${solutions[number]}`),
    make("td", { className: "words", dir: "auto" }, data.told.words[names[number]]?.[0] ?? "")));
  return [make("h3", {}, "What fires with it"),
    make("p", { className: "how" }, `Of the ${names.length.toLocaleString("en")} features whose every firing is in the page: the share of solutions with both among those with either.`),
    scrolled("Features that fire with it", make("table", {}, headed("layer/feature", "share", "both, of its firings", "description"), make("tbody", {}, ...rows)))];
}

const headed = (...names) => make("thead", {}, make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name))));
const scrolled = (label, table) => make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: label }, table);

function questionsOf(data, layer, id, fired) {
  if (!fired.length) return [make("p", {}, "It fires on no question of the page.")];
  const highest = Math.max(...fired.flatMap(({ activations }) => activations));
  const body = make("tbody");
  const more = make("button", { type: "button" });
  const add = () => {
    const before = body.rows.length;
    body.append(...fired.slice(before, before + AT_ONCE).map((each) => firedRow(data, layer, id, each, highest)));
    const left = fired.length - body.rows.length;
    more.textContent = `${Math.min(left, AT_ONCE)} more of ${left.toLocaleString("en")}`;
    more.hidden = left === 0;
  };
  more.addEventListener("click", add);
  add();
  return [make("h3", {}, `The ${fired.length === 1 ? "question" : `${fired.length.toLocaleString("en")} questions`} it fires on, the strongest first`),
    scrolled("Questions it fires on", make("table", { className: "fired" }, headed("right", "wrong", "difference", "wrong ◂ ▸ right", "question"), body)), more];
}

function firedRow(data, layer, id, { question, levels, activations }, highest) {
  const said = activations.map((value, side) => (value > 0 ? short(value) : levels[side] === 1 ? "?" : "–"));
  const known = !levels.includes(1);
  const difference = activations[0] - activations[1];
  const [x, length] = [60 + Math.min(0, (60 * difference) / highest), Math.abs((60 * difference) / highest)];
  return make("tr", {},
    make("td", { title: levels[0] === 1 ? "not above the limit of the other, cut list: it may fire there too" : "" }, said[0]),
    make("td", { title: levels[1] === 1 ? "not above the limit of the other, cut list: it may fire there too" : "" }, said[1]),
    make("td", {}, known ? `${difference > 0 ? "+" : ""}${signed(difference, difference > -10 && difference < 10 ? 2 : 1)}` : "?"),
    make("td", { className: "towards" }, draw("svg", { width: 120, height: 12, "aria-hidden": "true" },
      draw("rect", { class: difference > 0 ? "first" : "second", x, width: known ? length : 0, height: 12 }), draw("path", { class: "zero", d: "M60 0V12" }))),
    make("td", { className: "words" },
      make("a", { dir: "auto", href: addressIn(data.reading, `q=${question.example_id}&layer=${layer}&shade=${layer}/${id}`) }, `${question.correct ? "✓" : "✗"} ${question.goal.slice(0, 160)}`)));
}
