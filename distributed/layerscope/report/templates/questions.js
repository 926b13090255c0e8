// The question browser, over the data that `question_pack.py` packs.

// Question browser

const PAGE = 15;
const SIDES = ["right", "wrong"];

async function unpack(name) {
  const bytes = Uint8Array.from(atob(one(`#packed-${name}`).textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

const unpackText = async (name) => new TextDecoder().decode(await unpack(name));

async function load(reading) {
  const own = `questions-${reading}`; // of a run that grew while its readings were read one after the other
  const content = JSON.parse(await unpackText(one(`#packed-${own}`) ? own : "questions"));
  const { entries, scale, placed, tracked } = JSON.parse(await unpackText(`about-${reading}`));
  const bytes = new Uint8Array(await unpack(`features-${reading}`));
  const { fields, layers, pages, groups } = content;
  const cells = content.questions.length * layers.length;
  let offset = 0;
  const plane = (length) => bytes.subarray(offset, (offset += length));
  const pairs = (length) => {
    const [low, high] = [plane(length), plane(length)];
    return Uint32Array.from(low, (value, index) => value | (high[index] << 8));
  };
  const lengths = pairs(cells);
  const active = pairs(2 * cells);
  const ids = new Uint32Array(entries);
  for (const shift of [0, 8, 16, 24]) plane(entries).forEach((value, index) => { ids[index] |= value << shift; });
  const levels = [plane(entries), plane(entries)];
  const places = placed ? SIDES.map(() => ({ token: pairs(entries), count: pairs(entries) })) : null;
  const kept = placed ? SIDES.map(() => plane(entries)) : null;
  const starts = new Uint32Array(cells + 1);
  lengths.forEach((length, index) => { starts[index + 1] = starts[index] + length; });
  const questions = content.questions.map((values, index) =>
    ({ index, ...Object.fromEntries(fields.map((name, field) => [name, values[field]])) }));
  // Where the levels at an entry's tokens begin; behind the right solutions' come the wrong ones'.
  let tokensRead = offset;
  const byToken = kept?.map((side, number) => {
    const begin = new Uint32Array(entries);
    questions.forEach((question) => {
      for (let entry = starts[question.index * layers.length]; entry < starts[(question.index + 1) * layers.length]; entry += 1) {
        begin[entry] = tokensRead;
        tokensRead += side[entry] && question.token_counts[number];
      }
    });
    return begin;
  });
  const activation = (level) => (level > 1 ? Math.exp(scale[0] + scale[1] * (level - 2)) : 0);

  /** The kept features of a question in the layer of an index, the strongest first. */
  function features(question, layerIndex) {
    const cell = question.index * layers.length + layerIndex;
    const found = [];
    for (let entry = starts[cell]; entry < starts[cell + 1]; entry += 1) {
      const both = levels.map((side) => side[entry]);
      const where = places?.map(({ token, count }, side) => ({
        token: token[entry], count: count[entry],
        each: kept[side][entry] ? [...bytes.subarray(byToken[side][entry], byToken[side][entry] + question.token_counts[side])].map(activation) : null,
      }));
      found.push({ id: ids[entry], levels: both, activations: both.map(activation), where });
    }
    found.sort((a, b) => Math.max(...b.activations) - Math.max(...a.activations));
    return { found, active: [active[2 * cell], active[2 * cell + 1]] };
  }

  /** Where a feature of a question is kept, as every column counts; -1 of one that is not. */
  function entry(question, layerIndex, id) {
    const cell = question.index * layers.length + layerIndex;
    for (let at = starts[cell]; at < starts[cell + 1]; at += 1) if (ids[at] === id) return at;
    return -1;
  }

  return { reading, questions, layers, pages, groups, tracked, placed, features, entry, ids, starts, levels, activation };
}

/** What the tables of a reading say of a feature, by layer/id. */
function toldByTables(main) {
  const known = new Map();
  for (const row of all("table.features tbody tr[id]", main)) {
    const entry = known.get(row.dataset.feature) ?? { words: one(".words", row)?.textContent ?? "", confirmed: [] };
    if (row.classList.contains("confirmed")) entry.confirmed.push(row.closest("section").getAttribute("aria-label"));
    known.set(row.dataset.feature, entry);
  }
  return known;
}

const signed = (value, digits = 1) => value.toFixed(digits).replace("-", "−").replace(/^−(0\.?0*)$/, "$1");
const short = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(2));

/** Puts the browser into the sections of a reading. */
function browser(data, main) {
  const { questions, layers } = data;
  const known = toldByTables(main);
  let page = 0;
  let matches = [];
  let current = null;
  let markedLayer = null;

  const wrongOnly = make("input", { type: "checkbox", name: "wrong" });
  const order = make("select", { name: "order" },
    ...[["file", "as in the file"], ["closest", "smallest margin"], ["wrong", "most confidently wrong"], ["right", "most confidently right"]]
      .map(([value, text]) => make("option", { value }, text)));
  const word = make("input", { type: "search", name: "word", placeholder: "a word" });
  const layer = make("select", { name: "layer" }, ...layers.map((value, index) => make("option", { value: index }, `layer ${value}`)));
  const feature = make("input", { type: "number", name: "feature", min: 0, placeholder: "feature" });
  const by = data.groups.map(({ name, values }) => make("select", { name: `by.${name}` }, make("option", { value: "" }, "all"), ...values.map((value) => make("option", { value }, value))));
  const counted = make("span", { className: "found", aria: { "aria-live": "polite" } });
  const partly = make("span", { className: "found" });
  const list = make("ol");
  const previous = make("button", { type: "button" }, "← Earlier");
  const next = make("button", { type: "button" }, "Later →");
  const where = make("span");
  const detail = make("article", { tabIndex: -1, aria: { "aria-label": "Question" } });

  const filters = make("form", { className: "filters" },
    make("label", {}, wrongOnly, "answered wrong"),
    make("label", {}, "order", order),
    make("label", {}, "contains", word),
    make("label", {}, "fires", layer, feature),
    ...by.map((select, index) => make("label", {}, data.groups[index].name, select)),
    counted, partly);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("input", () => { page = 0; changed(); });
  previous.addEventListener("click", () => { page -= 1; changed(); });
  next.addEventListener("click", () => { page += 1; changed(); });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    const links = all("a", list);
    const target = step && links[links.indexOf(event.target) + step];
    if (target) { target.focus(); target.click(); event.preventDefault(); }
  });

  const orders = {
    file: (a, b) => a.index - b.index,
    closest: (a, b) => Math.abs(a.margin) - Math.abs(b.margin),
    wrong: (a, b) => a.margin - b.margin,
    right: (a, b) => b.margin - a.margin,
  };

  function firesOn(question, layerIndex, id) {
    const entry = data.entry(question, layerIndex, id);
    return entry >= 0 && data.levels.some((side) => side[entry] > 1);
  }

  // The filters by their names in the address, each as text; "" is one that lets all pass.
  const states = {
    wrong: [() => (wrongOnly.checked ? "1" : ""), (text) => { wrongOnly.checked = text === "1"; }],
    order: [() => (order.value === "file" ? "" : order.value), (text) => { order.value = text || "file"; }],
    word: [() => word.value.trim(), (text) => { word.value = text; }],
    fires: [() => (feature.value === "" ? "" : `${layers[layer.value]}/${feature.value}`), (text) => {
      const [at, id] = pairOf(text) ?? [null, ""];
      if (layers.includes(at)) layer.value = String(layers.indexOf(at));
      feature.value = id;
    }],
    page: [() => (page ? String(page + 1) : ""), (text) => { page = Math.max(Number.parseInt(text, 10) || 1, 1) - 1; }],
  };
  for (const select of by) {
    states[select.name] = [() => select.value, (text) => { select.value = text; if (select.selectedIndex < 0) select.value = ""; }];
  }
  const said = () => Object.fromEntries(Object.entries(states).map(([name, [read]]) => [name, read()]));
  const changed = () => { update(); note(said()); };

  function update() {
    const wanted = word.value.trim().toLowerCase();
    const id = feature.value === "" ? null : Number(feature.value);
    const inGroup = by.map((select) => select.selectedIndex - 1);
    matches = questions.filter((question) =>
      inGroup.every((value, index) => value < 0 || data.groups[index].of[question.index] === value)
      && (!wrongOnly.checked || !question.correct)
      && (wanted === "" || [question.goal, question.positive, question.negative, ...question.others.map(([text]) => text)].join("\n").toLowerCase().includes(wanted))
      && (id === null || firesOn(question, Number(layer.value), id)));
    matches.sort(orders[order.value]);
    const whole = id === null || data.tracked[layers[layer.value]]?.includes(id);
    partly.textContent = whole ? "" : "Only where it is among the strongest: this feature’s other firings are not in the page.";
    counted.textContent = `${matches.length.toLocaleString("en")} of ${questions.length.toLocaleString("en")} question${questions.length === 1 ? "" : "s"}`;
    const pages = Math.max(Math.ceil(matches.length / PAGE), 1);
    page = Math.min(Math.max(page, 0), pages - 1);
    previous.disabled = page === 0;
    next.disabled = page === pages - 1;
    where.textContent = `${page + 1} / ${pages}`;
    const hadFocus = list.contains(document.activeElement);
    list.replaceChildren(...matches.slice(page * PAGE, (page + 1) * PAGE).map(item));
    if (hadFocus) one("a[aria-current]", list)?.focus({ preventScroll: true });
  }

  function item(question) {
    const link = make("a", { href: addressIn(main.dataset.reading, `q=${question.example_id}`) },
      make("span", { className: `margin ${question.correct ? "" : "wrong"}` }, `${question.correct ? "✓" : "✗"} ${signed(question.margin)}`),
      make("span", { dir: "auto" }, question.goal));
    if (question === current) link.setAttribute("aria-current", "true");
    return make("li", {}, link);
  }

  /** A solution in words and gaps, with what the other one has not got between their common ends marked. */
  function marked(own, other) {
    const [mine, theirs] = [own, other].map((words) => words.split(/(\s+)/));
    const shorter = Math.min(mine.length, theirs.length);
    let start = 0;
    while (start < shorter && mine[start] === theirs[start]) start += 1;
    let end = 0;
    while (end < shorter - start && mine.at(-1 - end) === theirs.at(-1 - end)) end += 1;
    const middle = mine.slice(start, mine.length - end).join("");
    return [mine.slice(0, start).join(""), make("mark", {}, middle), mine.slice(mine.length - end).join("")];
  }

  function solution(question, side) {
    const chosen = question.correct === (side === 0);
    return make("div", { className: `solution ${SIDES[side]}` },
      make("small", {}, `${side === 1 && question.others.length ? "strongest " : ""}${SIDES[side]} solution`, ...(chosen ? [make("span", { className: "tag" }, "chosen by the model")] : [])),
      make("p", { dir: "auto", className: "text" }, ...marked(...(side === 0 ? [question.positive, question.negative] : [question.negative, question.positive]))),
      make("small", {}, `log-likelihood ${signed(question.log_likelihoods[side], 2)} nats over ${question.token_counts[side]} token${question.token_counts[side] === 1 ? "" : "s"}, the last “${question.final_tokens[side]}”`));
  }

  /** The wrong solutions but for the strongest, which are compared with in nothing but the section Mean of wrong. */
  function others(question) {
    if (!question.others.length) return [];
    return [make("ul", { className: "others", aria: { "aria-label": "Other wrong solutions" } }, ...question.others.map(([text, score]) =>
      make("li", {}, make("small", {}, "wrong, too"), " ", make("span", { dir: "auto" }, text), " ", make("small", {}, `${signed(score, 2)} nats`))))];
  }

  function chip(layerValue, found, kind) {
    const about = known.get(`${layerValue}/${found.id}`);
    const strengths = found.activations.map((value, side) => (value > 0 ? `${SIDES[side]} ${short(value)}` : "")).filter(Boolean);
    const unknown = kind !== "both" && found.levels.includes(1);
    const said = [
      strengths.join(", "),
      about?.words,
      about?.confirmed.length ? `confirmed: ${about.confirmed.join(", ")}` : "",
      unknown ? "not above the limit of the other, cut list: it may fire there too" : "",
    ].filter(Boolean).join("\n");
    const classes = ["chip", unknown ? "cut" : "", about?.confirmed.length ? "finding" : ""].join(" ");
    const content = [`${found.id} `, ...(kind === "both" ? [] : [make("small", {}, short(Math.max(...found.activations)))])];
    const feature = `${layerValue}/${found.id}`;
    return make("a", { className: classes, title: said, href: addressIn(data.reading, `feature=${feature}`), data: { feature } }, ...content);
  }

  function lane(question, layerIndex) {
    const layerValue = layers[layerIndex];
    const { found, active } = data.features(question, layerIndex);
    const groups = [
      ["only-right", found.filter(({ levels }) => levels[0] > 1 && levels[1] < 2)],
      ["both", found.filter(({ levels }) => levels[0] > 1 && levels[1] > 1)],
      ["only-wrong", found.filter(({ levels }) => levels[0] < 2 && levels[1] > 1)],
    ];
    return make("div", { className: `lane ${layerValue === markedLayer ? "marked" : ""}`, data: { lane: layerValue } },
      make("b", { title: `features that are active: ${active[0]} for the right solution, ${active[1]} for the wrong one` }, String(layerValue)),
      ...groups.map(([kind, features]) => make("div", { className: kind }, ...features.map((each) => chip(layerValue, each, kind)))));
  }

  function open(question, layerValue = null) {
    current = question;
    markedLayer = layerValue;
    const position = matches.indexOf(question);
    if (position >= 0) page = Math.floor(position / PAGE);
    update();
    detail.replaceChildren(
      make("p", { className: "eyebrow" }, `question ${question.example_id} · margin ${signed(question.margin, 2)} nats · ${question.correct ? "answered right" : "answered wrong"} · ${question.discovery ? "discovery" : "validation"} half${data.groups.map(({ name, values, of }) => ` · ${name}: ${values[of[question.index]]}`).join("")}`),
      make("p", { className: "goal", dir: "auto" }, question.goal),
      make("div", { className: "solutions" }, solution(question, 0), solution(question, 1)),
      ...others(question),
      ...(data.placed && question.pieces ? shading(question, data, detail) : []),
      make("div", { className: "lanes" },
        make("div", { className: "lane head" }, make("b", {}, "layer"), make("div", { className: "only-right" }, "only right"), make("div", { className: "both" }, "both"), make("div", { className: "only-wrong" }, "only wrong")),
        ...layers.map((_, index) => lane(question, index))),
      make("p", { className: "how" }, "A number and its activation; framed: a confirmed feature; dashed: too weak to know, because the other list is cut above it. Activations of different layers do not compare."));
  }

  one("#browser", main).append(filters, make("div", { className: "two" },
    make("div", { className: "list" }, list, make("div", { className: "turn" }, previous, where, next)), detail));
  one("#browser", main).hidden = false;
  one("#plain-questions", main).hidden = true;
  update();
  if (questions.length) open(questions.find((question) => !question.correct) ?? questions[0]);

  return {
    data,
    /** The question of an id, if the page has it. */
    go(id, layerValue, shade) {
      const question = questions.find((each) => each.example_id === id);
      if (!question) return;
      if (!matches.includes(question)) { filters.reset(); changed(); }
      if (question !== current || layerValue !== markedLayer) open(question, layerValue);
      const choice = shade && one("select[name=shade]", detail);
      if (choice) { choice.value = shade; choice.dispatchEvent(new Event("change")); }
      (one(".lane.marked", detail) ?? detail).scrollIntoView({ block: layerValue === null ? "start" : "center" });
    },
    /** Sets the filters as an address has them. */
    apply(wanted) {
      const before = JSON.stringify(said());
      for (const [name, [, write]] of Object.entries(states)) write(wanted.get(name) ?? "");
      if (JSON.stringify(said()) !== before) update();
    },
    goToFirst(layerValue) {
      if (matches.length) open(matches[0], layerValue);
      filters.scrollIntoView();
    },
  };
}
