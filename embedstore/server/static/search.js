// Search by words, by a file, by images of the store.

import { post, send } from "./api.js";
import { asked, list, remarks } from "./cases.js";
import { byId, el, options, say, working } from "./dom.js";
import { filterFields } from "./filters.js";
import { labels, page, withText } from "./state.js";

const form = byId("search-form");
const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

export function chooseSource(of, value) {
  for (const radio of of.elements.from) radio.checked = radio.value === value;
  for (const field of of.querySelectorAll("[data-from]")) field.hidden = field.dataset.from !== value;
}

export function fileOf(of) {
  const file = of.elements.file.files[0];
  if (!file) throw new Error("choose an image file");
  if (file.size > page.info.max_upload) {
    throw new Error(`the file is larger than ${Math.floor(page.info.max_upload / 2 ** 20)} MB`);
  }
  return file;
}

function how() {
  const { k, where, per, label, same_patient } = form.elements;
  return {
    backbone: page.backbone, k: Number(k.value), where: where.value.trim(), per: per.value,
    label: label.value, same_patient: same_patient.checked,
  };
}

async function found() {
  const { from, text, patient, ids, unlike } = form.elements;
  if (from.value === "file") return send("search", { ...how(), patient: patient.value.trim() }, fileOf(form));
  if (from.value === "text") return post("search", { ...how(), text: [text.value] });
  return post("search", { ...how(), ids: lines(ids.value), unlike: lines(unlike.value) });
}

export function search() {
  return working(form, "Searching …", async () => {
    const began = performance.now();
    const { label } = how();
    const answer = await found();
    byId("search-results").replaceChildren(...[
      asked(answer.asked, answer.picture),
      remarks(answer.summary, answer.notes),
      el("h3", {}, "Cases, most alike first"),
      list(answer.cases, { label }),
    ].filter(Boolean));
    const took = Math.round(performance.now() - began);
    byId("search-results").dataset.milliseconds = took;
    say(`${answer.cases.length} cases in ${took} ms (${answer.index === "exact" ? "every vector compared" : `index ${answer.index}`})`);
  });
}

page.like = (ids) => {
  location.hash = "#search";
  chooseSource(form, "ids");
  form.elements.ids.value = ids.join("\n");
  form.elements.unlike.value = "";
  return search().then(() => byId("h-search").scrollIntoView());
};

page.unlike = (id) => {
  if (form.elements.from.value !== "ids") {
    chooseSource(form, "ids");
    form.elements.ids.value = "";
  }
  const now = lines(form.elements.unlike.value);
  form.elements.unlike.value = [...new Set([...now, id])].join("\n");
  location.hash = "#search";
  form.elements.unlike.focus();
  say(`${id} is put under "Not like"; name what it shall be like, and search`);
};

export function fill() {
  const value = form.elements.label.value;
  const names = labels();
  options(form.elements.label, [["", "none"], ...names.map((n) => [n, n])], value || (names.length === 1 ? names[0] : ""));
  const [text] = form.elements.from;
  text.disabled = !withText();
  if (!form.elements.from.value || (text.disabled && text.checked)) chooseSource(form, withText() ? "text" : "ids");
}

export function start() {
  filterFields(byId("search-filter"));
  for (const radio of form.elements.from) radio.addEventListener("change", () => chooseSource(form, radio.value));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    search();
  });
}
