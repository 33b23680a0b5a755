// What a saved probe says of an image, with the nearest cases for and against it.

import { post, send } from "./api.js";
import { asked, list, remarks } from "./cases.js";
import { byId, el, options, percent, say, svg, working } from "./dom.js";
import { chooseSource, fileOf } from "./search.js";
import { page } from "./state.js";

const form = byId("probe-form");

function bar(share) {
  return svg("svg", { class: "bar", viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "track", x: 0, y: 0, width: 100, height: 8 }),
    svg("rect", { x: 0, y: 0, width: 100 * share, height: 8 }));
}

function table(answer) {
  const rows = Object.entries(answer.probabilities).map(([name, share]) =>
    el("tr", {}, el("th", { scope: "row" }, el("bdi", {}, name)), el("td", {}, percent(share)), el("td", {}, bar(share))));
  return el("table", {},
    el("caption", {}, `Calibrated probability of each ${answer.label}`),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, answer.label), el("th", { scope: "col" }, "probability"), el("th", {}))),
    el("tbody", {}, rows));
}

function verdict(answer) {
  const said = `${answer.label}: ${answer.answer}`;
  if (!answer.known) return el("p", {}, el("strong", {}, said));
  const right = answer.known === answer.answer;
  return el("p", { class: right ? "agrees" : "differs" }, el("strong", {}, said),
    right ? " ✓ as in the table" : ` ✗ the table has ${answer.known}`);
}

function predict() {
  return working(form, "Predicting …", async () => {
    // the pictures are of the probe's own vectors
    const { probe, from, id } = form.elements;
    const answer = from.value === "file"
      ? await send("predict", { probe: probe.value }, fileOf(form))
      : await post("predict", { probe: probe.value, id: id.value.trim() });
    byId("probe-results").replaceChildren(...[
      el("div", { class: "beside" }, asked(answer.asked, answer.picture), el("div", {}, verdict(answer), table(answer))),
      remarks([], answer.notes),
      el("h3", {}, `Nearest cases that are ${answer.answer}`),
      list(answer.supporting, { label: answer.label }),
      el("h3", {}, `Nearest cases that are not ${answer.answer}`),
      list(answer.opposing, { label: answer.label }),
    ].filter(Boolean));
    say(`${answer.label}: ${answer.answer}`);
  });
}

function about() {
  const probe = page.info.probes.find((one) => one.name === form.elements.probe.value);
  if (!probe) {
    byId("probe-about").textContent = "No probe is served: embedstore serve STORE --probe FOLDER, as probe --save makes it.";
    return;
  }
  const scores = probe.scores.map((s) =>
    `${s.title} ${s.value?.toFixed(3)} (${s.low?.toFixed(3)} to ${s.high?.toFixed(3)}; without looking ${s.floor?.toFixed(3)})`);
  byId("probe-about").textContent = `${probe.head} for ${probe.label}, on patients it had not seen: ${scores.join(", ")}.`;
}

page.predict = (probe, id) => {
  location.hash = "#probe";
  form.elements.probe.value = probe;
  about();
  chooseSource(form, "ids");
  form.elements.id.value = id;
  return predict();
};

export function fill() {
  const probes = page.info.probes.map((probe) => [probe.name, `${probe.name} (${probe.label})`]);
  options(form.elements.probe, probes, form.elements.probe.value);
  form.querySelector("button[type=submit]").disabled = !probes.length;
  about();
}

export function start() {
  chooseSource(form, "ids");
  for (const radio of form.elements.from) radio.addEventListener("change", () => chooseSource(form, radio.value));
  form.elements.probe.addEventListener("change", about);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    predict();
  });
}
