// Elements, made of names and text; text is never read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export const el = (tag, attributes = {}, ...children) =>
  filled(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, tag), attributes, children);

export const byId = (id) => document.getElementById(id);

export function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => el("option", { value }, text)));
  if (pairs.some(([value]) => value === chosen)) select.value = chosen;
}

export function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== "" && value != null);
  return el("dl", {}, known.map(([name, value]) =>
    el("div", {}, el("dt", {}, el("bdi", {}, name)), el("dd", {}, el("bdi", {}, String(value))))));
}

export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

export function say(text) {
  byId("status").textContent = text;
  byId("status").dataset.of = location.hash;
}

export function tell(problem) {
  byId("problem").textContent = problem;
  byId("problem").hidden = !problem;
}

// Run what a button asks for: once at a time, the problem told, the button back in the end.
export async function working(form, what, work) {
  const button = form.querySelector("button[type=submit]");
  if (button.disabled) return;
  button.disabled = true;
  tell("");
  say(what);
  try {
    await work();
  } catch (error) {
    say("");
    tell(error.message);
  } finally {
    button.disabled = false;
  }
}
