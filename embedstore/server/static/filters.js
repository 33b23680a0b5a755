// A filter, typed, or put together from the columns that have few values.

import { el, options } from "./dom.js";
import { page } from "./state.js";

const quoted = (name) => (/^[A-Za-z_]\w*$/.test(name) ? name : `\`${name}\``);
const literal = (value) => `'${value.replaceAll("\\", "\\\\").replaceAll("'", "\\'").replaceAll("\n", "\\n")}'`;

function condition(column, value) {
  return `${quoted(column.name)} == ${column.numbers ? value : literal(value)}`;
}

// Put the fields of a filter into a place; `input.value` is the filter.
export function filterFields(place) {
  const input = el("input", { name: "where", maxlength: 10000, autocomplete: "off", spellcheck: "false",
    placeholder: "view == 'MLO' and density in ['C', 'D']" });
  const column = el("select", {});
  const value = el("select", {});
  const add = el("button", { type: "button" }, "Add to filter");
  const listed = page.info.columns.filter((one) => one.values && Object.keys(one.values).length && !one.name.includes("`"));
  const picked = () => listed.find((one) => one.name === column.value);
  const fill = () => options(value, Object.entries(picked()?.values ?? {}).map(([text, n]) => [text, `${text} (${n})`]));
  options(column, listed.map((one) => [one.name, one.name]));
  fill();
  column.addEventListener("change", fill);
  add.addEventListener("click", () => {
    const one = condition(picked(), value.value);
    input.value = input.value.trim() ? `(${input.value.trim()}) and ${one}` : one;
  });
  place.replaceChildren(el("label", { class: "wide" }, "Filter", input));
  if (listed.length) {
    place.append(el("label", {}, "Column", column), el("label", {}, "Value", value), add);
  }
  return input;
}
