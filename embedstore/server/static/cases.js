// Cases as cards, and one case opened.

import { get, pictureOf } from "./api.js";
import { byId, el, facts, tell } from "./dom.js";
import { page } from "./state.js";

export function picture(one, alt, large = false) {
  if (one.picture) return el("p", { class: "missing" }, "No picture: ", one.picture);
  const image = el("img", { alt, loading: "lazy", src: pictureOf(one.id, page.backbone) });
  image.addEventListener("load", () => {
    if (image.naturalWidth <= 160) image.classList.add("small");
  });
  image.addEventListener("error", () =>
    image.replaceWith(el("p", { class: "missing" }, "No picture: it cannot be read")));
  if (large) image.loading = "eager";
  return image;
}

function mark(one, label) {
  if (!label) return null;
  const [kind, sign, text] =
    one.agrees == null ? ["unknown", "?", `${label}: ${one.labels[label] || "not known"}`]
    : one.agrees ? ["agrees", "✓", `same ${label}: ${one.labels[label]}`]
    : ["differs", "✗", `other ${label}: ${one.labels[label]}`];
  return el("p", { class: kind }, el("span", { "aria-hidden": "true" }, sign), " ", el("bdi", {}, text));
}

function known(one, measure) {
  const side = [one.laterality, one.view].filter(Boolean).join(" ");
  return facts([
    [measure, one.similarity?.toFixed(3)],
    ["view", side],
    ["patient", one.patient],
    ...Object.entries(one.labels),
  ]);
}

export function list(cases, { label = "", measure = "similarity", ranked = true } = {}) {
  if (!cases.length) return el("p", {}, "No cases.");
  const compared = cases.some((one) => one.agrees != null);
  return el("ol", { class: "cases", role: "list" }, cases.map((one, at) =>
    el("li", { class: "card", "data-id": one.id },
      el("h3", {}, ranked && el("span", { class: "rank" }, `${at + 1}. `), el("bdi", {}, one.id)),
      picture(one, `Case ${at + 1}, ${one.id}, as the model sees it`),
      compared && mark(one, label),
      known(one, measure),
      el("div", { class: "actions" },
        el("button", { type: "button", onclick: () => open(one.id), "aria-label": `Open ${one.id}` }, "Open"),
        el("button", { type: "button", onclick: () => page.like([one.id]), "aria-label": `Search like ${one.id}` }, "Like this"),
        el("button", { type: "button", onclick: () => page.unlike(one.id), "aria-label": `Not like ${one.id}` }, "Not like")))));
}

export function asked(cases, upload) {
  const figures = cases.map((one) => el("figure", {},
    picture(one, `${one.id}, which was asked for, as the model sees it`),
    el("figcaption", {}, el("bdi", {}, one.id), known(one, ""))));
  if (upload) {
    figures.push(el("figure", {}, el("img", { src: upload, alt: "The file, as the model sees it" }),
      el("figcaption", {}, "the file, as the model sees it")));
  }
  return figures.length ? el("div", { class: "asked" }, figures) : null;
}

export function remarks(summary, notes) {
  if (!summary.length && !notes.length) return null;
  return el("ul", { class: "summary" },
    summary.map((line) => el("li", {}, el("bdi", {}, line))),
    notes.map((line) => el("li", { class: "note" }, "Note: ", el("bdi", {}, line))));
}

export async function open(id) {
  try {
    const found = await get("sample", { id, backbone: page.backbone });
    show(found);
  } catch (error) {
    tell(error.message);
  }
}

function show({ case: one, columns }) {
  const dialog = byId("case");
  const close = () => dialog.close();
  const then = (work) => () => {
    close();
    work();
  };
  const probes = page.info.probes.map((probe) =>
    el("button", { type: "button", onclick: then(() => page.predict(probe.name, one.id)) }, `What ${probe.name} says`));
  dialog.replaceChildren(
    el("h2", { id: "case-title" }, el("bdi", {}, one.id)),
    el("div", { class: "detail" },
      picture(one, `${one.id}, as the model sees it`, true),
      el("div", {},
        facts(Object.entries(columns).map(([name, value]) => [name === "group" ? "patient" : name, value])),
        el("div", { class: "actions" },
          el("button", { type: "button", onclick: then(() => page.like([one.id])) }, "Cases like this"),
          probes,
          el("button", { type: "button", autofocus: true, onclick: close }, "Close")))));
  dialog.showModal();
}
