// The page: comes in by the token, shows what is served, and one view at a time.

import { enter, get } from "./api.js";
import { byId, options, say, tell } from "./dom.js";
import * as map from "./map.js";
import * as probe from "./probe.js";
import * as prompts from "./prompts.js";
import * as search from "./search.js";
import { page } from "./state.js";

const VIEWS = { search, map, probe, prompts };
let shown = "";

function show() {
  const name = location.hash.slice(1);
  if (name === "main") return; // the link that skips to the content
  const view = name in VIEWS ? name : "search";
  if (shown && shown !== view) {  // what was told of another view does not stand over this one
    tell("");
    if (byId("status").dataset.of !== location.hash) say("");
  }
  shown = view;
  for (const other of Object.keys(VIEWS)) byId(`view-${other}`).hidden = other !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  VIEWS[view].enter?.();
}

function fill() {
  page.backbone = byId("backbone").value;
  for (const view of Object.values(VIEWS)) view.fill();
}

async function start() {
  try {
    await enter();
    page.info = await get("store");
  } catch (error) {
    tell(error.message);
    return;
  }
  const { name, samples, commit, backbones } = page.info;
  document.title = `${name} – embedstore`;
  byId("store").textContent = name;
  byId("about").textContent = `${samples} images, commit ${commit}`;
  const there = backbones.filter((one) => one.vectors);
  const first = there.find((one) => one.text) ?? there[0];
  options(byId("backbone"), there.map((one) => [one.key, `${one.name} (${one.dim}, ${one.recipe})`]), first?.key);
  for (const view of Object.values(VIEWS)) view.start();
  byId("backbone").addEventListener("change", () => {
    fill();
    show();
  });
  fill();
  if (!there.length) tell("the store holds no vectors yet; run embedstore extract");
  addEventListener("hashchange", show);
  show();
}

start();
