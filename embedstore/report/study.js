"use strict";
// Shows the name and the thumbnail of the point under the pointer, or of the one chosen in the list.
for (const map of document.querySelectorAll("[data-map]")) {
  const chart = map.querySelector("svg.scatter");
  const ring = chart.querySelector(".ring");
  const list = map.querySelector("[role=listbox]");
  const options = [...list.querySelectorAll("[role=option]")];
  const said = map.querySelector("output");
  const thumb = map.querySelector("svg.thumb");
  const places = options.map((o) => [Number(o.dataset.x), Number(o.dataset.y)]);
  const sheet = document.getElementById("sheet");
  let chosen = -1;
  map.classList.add("live");
  if (thumb && sheet) thumb.querySelector("image").setAttribute("href", sheet.src);

  function choose(n, scroll) {
    if (n === chosen || n < 0 || n >= options.length) return;
    if (chosen >= 0) options[chosen].removeAttribute("aria-selected");
    chosen = n;
    const option = options[n];
    option.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", option.id);
    ring.setAttribute("cx", places[n][0]);
    ring.setAttribute("cy", places[n][1]);
    said.textContent = `${option.textContent}, ${option.parentElement.getAttribute("aria-label")}`;
    if (thumb && option.dataset.cell) {
      const side = Number(thumb.dataset.side);
      const columns = Number(thumb.dataset.columns);
      const cell = Number(option.dataset.cell);
      const left = (cell % columns) * side;
      const top = Math.floor(cell / columns) * side;
      thumb.classList.add("chosen");
      thumb.setAttribute("viewBox", `${left} ${top} ${side} ${side}`);
      thumb.setAttribute("aria-label", `Thumbnail of ${option.textContent}`);
    }
    if (scroll) {
      const box = option.getBoundingClientRect();
      const room = list.getBoundingClientRect();
      if (box.top < room.top) list.scrollTop -= room.top - box.top;
      if (box.bottom > room.bottom) list.scrollTop += box.bottom - room.bottom;
    }
  }

  function near(event) {
    const box = chart.getBoundingClientRect();
    const unit = chart.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * unit;
    const y = (event.clientY - box.top) * unit;
    let best = -1;
    let least = 24 * 24 * unit * unit;
    places.forEach(([a, b], n) => {
      const far = (a - x) ** 2 + (b - y) ** 2;
      if (far < least) [best, least] = [n, far];
    });
    choose(best, true);
  }

  chart.addEventListener("pointermove", near);
  chart.addEventListener("pointerdown", near);
  list.addEventListener("focus", () => choose(chosen < 0 ? 0 : chosen, true));
  list.addEventListener("click", (event) => choose(options.indexOf(event.target), false));
  list.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 };
    let to = chosen + (steps[event.key] || 0);
    if (event.key === "Home") to = 0;
    else if (event.key === "End") to = options.length - 1;
    else if (!steps[event.key]) return;
    event.preventDefault();
    choose(Math.min(Math.max(to, 0), options.length - 1), true);
  });
}
