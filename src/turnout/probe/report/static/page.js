// The page: its head, its contents, its sections; then the charts, one after the other.

function head() {
  const notices = report.notices.map((notice) => make("p", { class: "notice" }, make("bdi", {}, notice)));
  return [
    make("p", { class: "kind" }, report.kind),
    make("h1", {}, make("bdi", {}, report.title)),
    make("p", { class: "summary" }, make("bdi", {}, report.summary)),
    ...notices,
  ];
}

function contents() {
  const links = report.sections.map((section) =>
    make("li", {}, make("a", { href: `#${section.name}` }, section.title))
  );
  const choice = axisChoice();
  return choice ? [make("ul", {}, links), choice] : [make("ul", {}, links)];
}

function sectionElement(section) {
  const title = make("h2", { id: `${section.name}-title` }, section.title);
  const blocks = section.blocks.map((block) => BUILDERS[block.type](block));
  return make("section", { id: section.name, "aria-labelledby": `${section.name}-title` }, title, blocks);
}

document.title = `${report.title}: Turnout report`;
document.getElementById("head").replaceChildren(...head());
document.getElementById("contents").replaceChildren(...contents());
document.getElementById("content").replaceChildren(...report.sections.map(sectionElement));
document.body.append(tip);
darkness.addEventListener("change", () => drawAll(() => true));
document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
window.addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = true;
});
drawAll(() => true);
