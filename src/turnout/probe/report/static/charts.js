// Charts: drawn by Vega without evaluating code, and drawn again when theme or axis changes.

const MOST_SHAPES = 6000;
const ZOOM = "Ctrl and wheel zoom, Shift and drag move, a double click resets.";
const drawn = [];
let axis = report.axes[0];

const tip = make("div", { id: "tip", role: "status", hidden: true });

function showTip(_handler, event, _item, value) {
  if (value === null || value === undefined || value === "") {
    tip.hidden = true;
    return;
  }
  const pairs = typeof value === "object" ? Object.entries(value) : [["", value]];
  const list = make("dl", {});
  for (const [name, each] of pairs) {
    list.append(make("dt", {}, name), make("dd", {}, make("bdi", {}, String(each))));
  }
  tip.replaceChildren(list);
  tip.hidden = false;
  const wide = tip.offsetWidth;
  const tall = tip.offsetHeight;
  const left = Math.min(event.clientX + 14, window.innerWidth - wide - 6);
  const top = event.clientY + 16 + tall > window.innerHeight ? event.clientY - tall - 10 : event.clientY + 16;
  tip.style.left = `${Math.max(left, 4)}px`;
  tip.style.top = `${Math.max(top, 4)}px`;
}

function swatch(key, colours) {
  const mark = make("span", { class: `swatch ${key.mark}`, "aria-hidden": "true" });
  mark.style.setProperty("--colour", colour(key.colour, colours));
  return make("li", {}, mark, make("bdi", {}, key.name));
}

function legend(keys) {
  return keys.length ? make("ul", { class: "keys" }, keys.map((key) => swatch(key, report.themes[themeName()]))) : null;
}

// A figure whose drawing follows later; `draw` says when it is there.
function chartFigure(chart) {
  const plot = make("div", { class: "plot", role: "img", "aria-label": chart.summary });
  const keys = make("div", { class: "legend" });
  const caption = make("figcaption", {}, make("h3", {}, make("bdi", {}, chart.title)));
  const hint = chart.spec.params ? ZOOM : "";
  const note = [chart.note, hint].filter(Boolean).join(" ");
  if (note) caption.append(make("p", {}, make("bdi", {}, note)));
  drawn.push({ chart, plot, keys });
  return make("figure", { id: `chart-${chart.name}` }, caption, keys, plot);
}

// The specification without its legends: the page writes them itself, where they can wrap.
function unlegended(value) {
  if (Array.isArray(value)) return value.map(unlegended);
  if (value === null || typeof value !== "object") return value;
  const kept = Object.entries(value).filter(([key]) => key !== "legend");
  return Object.fromEntries(kept.map(([key, each]) => [key, unlegended(each)]));
}

function specification(chart, colours) {
  const datasets = {};
  let shapes = 0;
  for (const [name, columns] of Object.entries(chart.data)) {
    datasets[name] = rows(columns, axis);
    shapes += datasets[name].length;
  }
  const spec = filled(unlegended(chart.spec), colours, axis.title);
  spec.config = filled(report.config, colours, "");
  spec.config.legend.disable = true;
  spec.config.aria = false;
  spec.datasets = datasets;
  spec.width = "container";
  spec.height = chart.height;
  spec.autosize = { type: "fit-x", contains: "padding" };
  return [spec, shapes > MOST_SHAPES ? "canvas" : "svg"];
}

async function draw(item) {
  const colours = report.themes[themeName()];
  const [spec, renderer] = specification(item.chart, colours);
  const list = legend(item.chart.keys);
  item.keys.replaceChildren(...(list ? [list] : []));
  if (item.result) item.result.finalize();
  item.result = await window.turnoutEmbed(item.plot, spec, {
    actions: false,
    ast: true,
    defaultStyle: false,
    mode: "vega-lite",
    renderer,
    tooltip: showTip,
  });
}

async function drawAll(wanted) {
  document.documentElement.dataset.theme = themeName();
  for (const item of drawn) {
    if (wanted(item.chart)) await draw(item);
  }
  document.documentElement.dataset.drawn = String(drawn.length);
}

// The radio buttons that choose what the horizontal axes count.
function axisChoice() {
  if (report.axes.length < 2) return null;
  const buttons = report.axes.map((each, index) => {
    const button = make("input", { type: "radio", name: "axis", value: String(index), checked: !index });
    button.addEventListener("change", () => {
      axis = each;
      drawAll((chart) => chart.overTime);
    });
    return make("label", {}, button, each.name);
  });
  return make("fieldset", { class: "axes" }, make("legend", {}, "Horizontal axis"), buttons);
}
