// Shading of a question's tokens by a feature of the reading max: where it is strongest, and where known at every token.

/** The pieces of a solution's text that are its tokens; one that is part of a character is empty, and stands before it. */
function tokensOf(question, side) {
  const text = [question.positive, question.negative][side];
  let end = 0;
  return question.pieces[side].map((length) => text.slice(end, (end += length)));
}

/** Where a token is seen: itself, or the one with the character that it is a part of; null where the text is cut. */
function seenAt(tokens, token) {
  const at = tokens.findIndex((text, index) => index >= token && text !== "");
  return at < 0 ? null : at;
}

/** Chooses a feature of a question, and shades both solutions by it. */
function shading(question, data, detail) {
  const features = new Map();
  const choice = make("select", { name: "shade" }, make("option", { value: "" }, "no feature"));
  data.layers.forEach((layer, index) => {
    const { found } = data.features(question, index);
    const options = found.map((feature) => {
      features.set(`${layer}/${feature.id}`, { layer, ...feature });
      return make("option", { value: `${layer}/${feature.id}` }, `${feature.id} of layer ${layer}`);
    });
    if (options.length) choice.append(make("optgroup", { label: `layer ${layer}` }, ...options));
  });
  const told = make("p", { className: "how", aria: { "aria-live": "polite" } });
  const plainly = () => all(".solution .text", detail).map((text) => [...text.childNodes]);
  let plain = null;

  function shade(name) {
    plain ??= plainly();
    const feature = features.get(name);
    const texts = all(".solution .text", detail);
    const strongest = feature && Math.max(...feature.activations);
    texts.forEach((text, side) => text.replaceChildren(...(feature ? shaded(side, feature, strongest) : plain[side])));
    for (const chip of all(".chip", detail)) chip.classList.toggle("shown", chip.dataset.feature === name);
    told.textContent = feature
      ? `Feature ${feature.id} of layer ${feature.layer}: ${SIDES.map((_, side) => said(side, feature)).join("; ")}.${known(feature) ? "" : " What it is at other tokens is not here."}`
      : "Choose a feature: the token at which it is strongest is shaded, and every one at which it is known to be active.";
  }

  function shaded(side, feature, strongest) {
    const tokens = tokensOf(question, side);
    const at = feature.activations[side] > 0 ? seenAt(tokens, feature.where[side].token) : null;
    const seen = activationsSeen(side, feature, tokens, at);
    return tokens.map((text, index) => {
      if (!(seen[index] > 0)) return text;
      const level = Math.max(Math.ceil((4 * seen[index]) / strongest), 1);
      const told = index === at ? said(side, feature) : `${SIDES[side]} ${seen[index].toPrecision(3)} at “${text.trim()}”, token ${index + 1} of ${tokens.length}`;
      return make("span", { className: `token of-${level}`, tabIndex: 0, title: told, aria: { "aria-label": `${text.trim()}: ${told}` } },
        text, ...(index === at ? [make("sup", {}, seen[index].toPrecision(3))] : []));
    });
  }

  /** What is known of a feature at each piece of text: the strongest of its tokens. */
  function activationsSeen(side, feature, tokens, at) {
    const seen = tokens.map(() => 0);
    feature.where[side].each?.forEach((activation, token) => {
      const index = seenAt(tokens, token);
      if (index !== null) seen[index] = Math.max(seen[index], activation);
    });
    if (at !== null) seen[at] = feature.activations[side];
    return seen;
  }

  const known = (feature) => SIDES.every((_, side) => feature.where[side].each || !(feature.activations[side] > 0));

  function said(side, feature) {
    if (!(feature.activations[side] > 0)) return `${SIDES[side]} ${feature.levels[side] === 1 ? "not known" : "not active"}`;
    const { token, count } = feature.where[side];
    const tokens = tokensOf(question, side);
    const at = seenAt(tokens, token);
    const text = at === null ? "in the part that is cut" : `at “${tokens[at].trim()}”`;
    const alone = count === 1 ? "active there alone" : `active at ${count}`;
    return `${SIDES[side]} ${feature.activations[side].toPrecision(3)} ${text}, token ${token + 1} of ${tokens.length}, ${alone}`;
  }

  choice.addEventListener("change", () => { shade(choice.value); note({ q: question.example_id, shade: choice.value }); });
  queueMicrotask(() => shade(""));
  return [make("label", { className: "shading" }, "shade tokens by ", choice), told];
}
