// What the page was given, and plain functions of it. No text below is ever parsed as markup.

const report = JSON.parse(document.getElementById("report").textContent);
const darkness = window.matchMedia("(prefers-color-scheme: dark)");

function themeName() {
  return darkness.matches ? "dark" : "light";
}

// An element with attributes and children; strings become text nodes.
function make(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

function channels(colour) {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
}

// A point on the ramp between three colours of a theme: 0 is the first, 1 the last.
function blend(place, colours) {
  const [left, right] = place <= 0.5 ? ["r0", "r1"] : ["r1", "r2"];
  const part = place <= 0.5 ? place * 2 : place * 2 - 1;
  const ends = channels(colours[right]);
  const mixed = channels(colours[left]).map((value, index) =>
    Math.round(value * (1 - part) + ends[index] * part)
  );
  return `rgb(${mixed.join(", ")})`;
}

// One named colour; "@ramp:0.25" is a point on the ramp.
function colour(name, colours) {
  if (name.startsWith("@ramp:")) return blend(Number(name.slice(6)), colours);
  return Object.hasOwn(colours, name.slice(1)) ? colours[name.slice(1)] : name;
}

// A copy of a specification with its named colours and its axis title filled in.
function filled(value, colours, title) {
  if (Array.isArray(value)) return value.map((each) => filled(each, colours, title));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(
      Object.entries(value).map(([key, each]) => [key, filled(each, colours, title)])
    );
  }
  if (value === "@axis") return title;
  return typeof value === "string" && value.startsWith("@") ? colour(value, colours) : value;
}

// Where a step lies on a horizontal axis: linear between the knots of its run.
function along(axis, run, step) {
  if (!axis.runs.length) return step;
  const [steps, values] = axis.runs[run];
  let low = 0;
  let high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] <= step) low = middle;
    else high = middle;
  }
  const width = steps[high] - steps[low];
  if (!width) return values[low];
  return values[low] + ((step - steps[low]) / width) * (values[high] - values[low]);
}

// Columns as rows; values that are no lists hold for every row.
function rows(columns, axis) {
  const names = Object.keys(columns);
  const lists = names.filter((name) => Array.isArray(columns[name]));
  const length = Math.max(0, ...lists.map((name) => columns[name].length));
  return Array.from({ length }, (_, index) => {
    const row = {};
    for (const name of names) {
      row[name] = Array.isArray(columns[name]) ? columns[name][index] : columns[name];
    }
    const run = row.run || 0;
    if ("step" in row) row.x = along(axis, run, row.step);
    if ("step2" in row) row.x2 = along(axis, run, row.step2);
    return row;
  });
}
