// The blocks a section is made of, as elements.

function paragraph(block) {
  return make("p", { class: "prose" }, make("bdi", {}, block.text));
}

function headline(block) {
  return make("h3", { class: "part" }, make("bdi", {}, block.text));
}

function figureCards(block) {
  const cards = block.items.map((item) =>
    make(
      "div",
      { class: "card" },
      make("dt", {}, item.label),
      make("dd", {}, item.value),
      item.note ? make("dd", { class: "note" }, make("bdi", {}, item.note)) : null
    )
  );
  return make("dl", { class: "figures" }, cards);
}

function chartGrid(block) {
  const across = Math.min(block.across, Math.max(block.items.length, 1));
  const figures = block.items.map((item) => chartFigure(item.chart));
  const grid = make("div", { class: `charts across-${across}` }, figures);
  if (!block.keys.length) return grid;
  const keys = make("div", { class: "legend" });
  const fill = () => keys.replaceChildren(legend(block.keys));
  fill();
  darkness.addEventListener("change", fill);
  return make("div", {}, keys, grid);
}

function folded(label, folds, content) {
  if (!folds) return content;
  return make("details", {}, make("summary", {}, label), content);
}

function dataTable(block) {
  const number = (index) => (block.numbers.includes(index) ? "number" : null);
  const head = block.header.map((name, index) =>
    make("th", { scope: "col", class: number(index) }, make("bdi", {}, name))
  );
  const body = block.rows.map((row) =>
    make(
      "tr",
      {},
      row.map((cell, index) =>
        make(index ? "td" : "th", { scope: index ? null : "row", class: number(index) }, make("bdi", {}, cell))
      )
    )
  );
  const made = make(
    "table",
    {},
    make("caption", {}, block.caption),
    make("thead", {}, make("tr", {}, head)),
    make("tbody", {}, body)
  );
  const frame = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": block.caption }, made);
  return folded(block.caption, block.folded, frame);
}

function codeBlock(block) {
  const lines = make("pre", { tabindex: "0", "aria-label": block.label }, make("code", {}, make("bdi", {}, block.text)));
  if (block.folded) return folded(block.label, true, lines);
  return make("div", {}, make("h3", { class: "part" }, block.label), lines);
}

function sampleList(block) {
  const items = block.items.map((item, index) => {
    const text = item.continued
      ? [make("bdi", { class: "prompt" }, item.prompt), make("bdi", {}, item.text)]
      : [make("bdi", {}, item.text)];
    return make("li", {}, make("pre", { tabindex: "0", "aria-label": `Sample ${index + 1}` }, text));
  });
  return make("ol", { class: "samples" }, items);
}

function chips(label, items) {
  if (!items.length) return null;
  const list = items.map((item) =>
    make(
      "li",
      { title: `${item.lift.toFixed(1)} times as often as average, ${item.count} times here` },
      make("bdi", {}, item.text)
    )
  );
  return make("div", { class: "row" }, make("span", { class: "label" }, label), make("ul", { class: "chips" }, list));
}

function exampleLine(example) {
  const pieces = example.pieces.map(([text, kind]) =>
    make(kind === "this" ? "mark" : "span", { class: kind || null }, make("bdi", {}, text))
  );
  return make("li", {}, pieces);
}

function kinds(card) {
  const names = card.classes.map((each) => `${each.name} (${each.lift.toFixed(1)}×)`);
  if (!card.assigned) return "serves no token of the held-out text";
  return names.length ? names.join(", ") : "no kind of character much more than the others";
}

function expertCard(card) {
  const bar = make("div", { class: "bar", "aria-hidden": "true" }, make("i", {}), make("b", {}));
  bar.style.setProperty("--share", String(Math.min(card.share / (card.even * 3), 1)));
  const share = `${(card.share * 100).toFixed(1)}% of the tokens`;
  return make(
    "article",
    { class: "expert" },
    make("h4", {}, `Expert ${card.expert}`, make("span", { class: "share" }, share)),
    bar,
    make("p", { class: "kinds" }, kinds(card)),
    chips("tokens", card.tokens),
    chips("runs", card.contexts),
    card.examples.length
      ? make("ul", { class: "examples", "aria-label": "Places in held-out text" }, card.examples.map(exampleLine))
      : null
  );
}

const BUILDERS = {
  text: paragraph,
  heading: headline,
  figures: figureCards,
  charts: chartGrid,
  chart: (block) => chartFigure(block.chart),
  table: dataTable,
  code: codeBlock,
  samples: sampleList,
  experts: (block) => make("div", { class: "experts" }, block.items.map(expertCard)),
};
