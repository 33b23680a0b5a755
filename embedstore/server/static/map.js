// The map: points with shape and colour by label, by mouse and by keyboard.

import { get } from "./api.js";
import { open, picture } from "./cases.js";
import { byId, el, facts, options, say, svg, tell } from "./dom.js";
import { labels, page } from "./state.js";

const canvas = byId("map-canvas");
const AGAIN = 1000; // ms between questions while the map is made
const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#b5508a", "#6b5b00", "#3d6fd1", "#8a4b08", "#444b52"];
const DARK = ["#56b4e9", "#ff9d5c", "#4fd1a5", "#f0a0cf", "#e5d352", "#9dbbff", "#d9a56b", "#c0c8d0"];
// outlines within -1..1; the first is a circle
const SHAPES = [
  null, [[-1, 1], [1, 1], [0, -1]], [[-.85, -.85], [.85, -.85], [.85, .85], [-.85, .85]],
  [[0, -1.1], [1.1, 0], [0, 1.1], [-1.1, 0]], [[-1, -1], [1, -1], [0, 1]],
  [[-.35, -1], [.35, -1], [.35, -.35], [1, -.35], [1, .35], [.35, .35], [.35, 1], [-.35, 1], [-.35, .35], [-1, .35], [-1, -.35], [-.35, -.35]],
  [[-1, -.4], [1, -.4], [1, .4], [-1, .4]], [[-.4, -1], [.4, -1], [.4, 1], [-.4, 1]],
];

let shown = null; // the map as the server gave it
let kinds = []; // values with a shape of their own, commonest first
let at = -1; // the point looked at
let waiting = 0;

const isDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
const colour = (kind) => (isDark() ? DARK : LIGHT)[kind % LIGHT.length];

function kindOf(point) {
  const kind = kinds.indexOf(shown.values[point] ?? "");
  return kind < 0 ? SHAPES.length - 1 : kind;
}

function place(point) {
  const scale = Math.min(canvas.clientWidth, canvas.clientHeight) / 2 - 14;
  const wide = canvas.clientWidth / 2 - 14;
  return [canvas.clientWidth / 2 + shown.x[point] * wide, canvas.clientHeight / 2 - shown.y[point] * scale];
}

function outline(pen, kind, x, y, r) {
  pen.beginPath();
  const shape = SHAPES[kind % SHAPES.length];
  if (!shape) pen.arc(x, y, r, 0, 7);
  else shape.forEach(([dx, dy]) => pen.lineTo(x + dx * r, y + dy * r));
  pen.closePath();
}

function draw() {
  if (!shown?.ids.length) return;
  const density = devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * density;
  canvas.height = canvas.clientHeight * density;
  const pen = canvas.getContext("2d");
  pen.scale(density, density);
  const r = shown.ids.length > 1000 ? 3 : shown.ids.length > 200 ? 4.5 : 6;
  shown.ids.forEach((_, point) => {
    const kind = kindOf(point);
    outline(pen, kind, ...place(point), r);
    pen.fillStyle = colour(kind);
    pen.globalAlpha = 0.8;
    pen.fill();
  });
  if (at >= 0) {
    outline(pen, 0, ...place(at), r + 5);
    pen.globalAlpha = 1;
    pen.lineWidth = 3;
    pen.strokeStyle = getComputedStyle(canvas).color;
    pen.stroke();
  }
}

function legend() {
  const label = shown.label;
  const rows = (label ? kinds : []).map((value, kind) => {
    const points = SHAPES[kind]?.map(([x, y]) => `${8 + 6 * x},${8 + 6 * y}`).join(" ");
    const sign = points ? svg("polygon", { points, fill: colour(kind) }) : svg("circle", { cx: 8, cy: 8, r: 6, fill: colour(kind) });
    return el("li", {}, svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, sign), el("bdi", {}, value || "not known"));
  });
  byId("map-legend").replaceChildren(...rows);
}

function look(point) {
  at = point;
  draw();
  if (point < 0) return;
  const id = shown.ids[point];
  byId("map-point").replaceChildren(
    picture({ id, picture: "" }, `${id}, as the model sees it`),
    facts([["id", id], ["view", shown.views[point]], [shown.label, shown.values[point] ?? ""]]),
    el("div", { class: "actions" }, el("button", { type: "button", onclick: () => open(id) }, "Open"),
      el("button", { type: "button", onclick: () => page.like([id]) }, "Like this")));
}

function nearest(x, y, allowed = () => true, weigh = (dx, dy) => dx * dx + dy * dy) {
  let best = -1, least = Infinity;
  shown.ids.forEach((_, point) => {
    const [px, py] = place(point);
    if (!allowed(px - x, py - y, point)) return;
    const far = weigh(px - x, py - y);
    if (far < least) [best, least] = [point, far];
  });
  return [best, least];
}

const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function key(event) {
  if (!shown?.ids.length) return;
  if (event.key === "Enter" && at >= 0) open(shown.ids[at]);
  const way = WAYS[event.key];
  if (!way) return;
  event.preventDefault();
  if (at < 0) {
    look(nearest(canvas.clientWidth / 2, canvas.clientHeight / 2)[0]);
    return;
  }
  const along = (dx, dy) => dx * way[0] + dy * way[1];
  const across = (dx, dy) => Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
  const weigh = (dx, dy) => along(dx, dy) + 2 * across(dx, dy);
  const ahead = (dx, dy, point) => point !== at && along(dx, dy) > 0;
  const straight = (dx, dy, point) => ahead(dx, dy, point) && across(dx, dy) <= along(dx, dy);
  let [next] = nearest(...place(at), straight, weigh);
  if (next < 0) [next] = nearest(...place(at), ahead, weigh);
  if (next >= 0) look(next);
}

function under(event) {
  const box = canvas.getBoundingClientRect();
  const [point, far] = nearest(event.clientX - box.left - canvas.clientLeft, event.clientY - box.top - canvas.clientTop);
  return far < 400 ? point : -1;
}

async function load() {
  clearTimeout(waiting);
  if (byId("view-map").hidden) return;
  try {
    const found = await get("map", { backbone: page.backbone, label: byId("map-label").value });
    byId("map-about").textContent = [found.method, ...found.notes].filter(Boolean).join("; ");
    if (found.state === "working") {
      say("The map is being made …");
      waiting = setTimeout(load, AGAIN);
      return;
    }
    say(found.state === "ready" ? `${found.ids.length} images` : "There is no map");
    shown = found;
    const counts = new Map();
    for (const value of found.values) counts.set(value, (counts.get(value) ?? 0) + 1);
    kinds = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a)).slice(0, SHAPES.length - 1).sort();
    if (counts.size > kinds.length) kinds.push("others");
    at = Math.min(at, found.ids.length - 1);
    canvas.dataset.points = found.ids.length;
    legend();
    draw();
  } catch (error) {
    tell(error.message);
  }
}

export function fill() {
  const names = labels();
  options(byId("map-label"), [["", "none"], ...names.map((n) => [n, n])], byId("map-label").value || names[0] || "");
  at = -1;
  byId("map-point").replaceChildren();
}

export const enter = load;

export function start() {
  byId("map-label").addEventListener("change", load);
  canvas.addEventListener("keydown", key);
  canvas.addEventListener("mousemove", (event) => {
    const point = shown?.ids.length ? under(event) : -1;
    if (point >= 0 && point !== at) look(point);
  });
  canvas.addEventListener("click", (event) => {
    const point = shown?.ids.length ? under(event) : -1;
    if (point >= 0) open(shown.ids[point]);
  });
  addEventListener("resize", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (shown) { legend(); draw(); } });
}
