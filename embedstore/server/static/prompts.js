// Two sentences, and how the store divides between them.

import { post } from "./api.js";
import { list, remarks } from "./cases.js";
import { byId, el, options, percent, say, svg, working } from "./dom.js";
import { filterFields } from "./filters.js";
import { labels, page, withText } from "./state.js";

const form = byId("prompts-form");

function bars(share, edges, most) {
  const width = 460 / share.bars.length;
  const columns = share.bars.map((n, at) => {
    const height = most ? (90 * n) / most : 0;
    const isA = (edges[at] + edges[at + 1]) / 2 > 0;
    return svg("rect", { class: isA ? "a" : "b", x: at * width + 0.5, y: 92 - height, width: width - 1, height });
  });
  const text = `${share.value || "all"}: ${share.a} nearer to A, ${share.b} nearer to B`;
  return svg("svg", { class: "bars", viewBox: "0 0 460 108", role: "img", "aria-label": text },
    columns,
    svg("line", { x1: 230, x2: 230, y1: 0, y2: 94 }),
    svg("text", { x: 0, y: 106 }, "← B"),
    svg("text", { x: 460, y: 106, "text-anchor": "end" }, "A →"));
}

function table(division, label) {
  const rows = division.shares.map((share) => el("tr", {},
    el("th", { scope: "row" }, el("bdi", {}, share.value || (label ? "not known or rarer" : "all"))),
    el("td", {}, String(share.a)), el("td", {}, String(share.b)),
    el("td", {}, share.a + share.b ? percent(share.a / (share.a + share.b)) : "")));
  return el("div", { class: "wide-table" }, el("table", {},
    el("caption", {}, label ? `Which sentence images of each ${label} are nearer to` : "Which sentence images are nearer to"),
    el("thead", {}, el("tr", {}, [label || "images", "nearer to A", "nearer to B", "share nearer to A"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows)));
}

function show(division, label) {
  const measure = "A less B";
  byId("prompts-results").replaceChildren(...[
    remarks([], division.notes),
    el("div", { class: "beside" }, table(division, label),
      el("div", { class: "shares" }, division.shares.map((share) => el("figure", {},
        el("figcaption", {}, share.value ? `${label} ${share.value}` : label ? "not known or rarer" : "all images"),
        bars(share, division.edges, Math.max(...share.bars)))))),
    el("h3", {}, "Nearest to A"), list(division.most_a, { measure, label }),
    el("h3", {}, "Undecided"), list(division.undecided, { measure, label }),
    el("h3", {}, "Nearest to B"), list(division.most_b, { measure, label }),
  ].filter(Boolean));
  say(`${division.a} nearer to A, ${division.b} nearer to B`);
}

export function fill() {
  const names = labels();
  options(form.elements.label, [["", "none"], ...names.map((n) => [n, n])], form.elements.label.value || names[0] || "");
  const can = withText();
  form.querySelector("button[type=submit]").disabled = !can;
  byId("h-prompts").textContent = can ? "Two sentences" : "Two sentences: these vectors have no text side";
}

export function start() {
  filterFields(byId("prompts-filter"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { a, b, where, label } = form.elements;
    working(form, "Dividing …", async () => {
      const asked = { a: a.value, b: b.value, where: where.value.trim(), label: label.value, backbone: page.backbone };
      show(await post("divide", asked), asked.label);
    });
  });
}
