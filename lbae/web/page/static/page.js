// The page: its tabs, the facts of the model, and sending images from one tab to another.

import { startEdit } from "./edit.js";
import { startInterpolate } from "./interpolate.js";
import { startSample } from "./sample.js";
import { askJson, useBundle, useKey } from "./service.js";
import { fill } from "./slots.js";
import { startVary } from "./vary.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
const facts = document.getElementById("model");
const again = document.getElementById("again");
const keyForm = document.getElementById("key");
const panel = (name) => document.getElementById(name);

function choose(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.ariaSelected = String(chosen);
    other.tabIndex = chosen ? 0 : -1;
    panel(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
}

tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const last = tabs.length - 1;
    const goes = { ArrowRight: index + 1, ArrowLeft: index - 1 + tabs.length, Home: 0, End: last }[event.key];
    if (goes === undefined) return;
    event.preventDefault();
    const next = tabs[goes % tabs.length];
    choose(next);
    next.focus();
  });
});

function send(name, latent, picture) {
  const { id } = document.querySelector(`.slot[data-name=${name}]`).closest("[role=tabpanel]");
  choose(tabs.find((tab) => tab.getAttribute("aria-controls") === id));
  fill(name, latent, picture);
}

let shown = null; // fingerprint of the bundle that the page shows
const parts = [
  startInterpolate(panel("interpolate")),
  startVary(panel("vary"), send),
  startEdit(panel("edit")),
  startSample(panel("sample"), send),
];

// Fetches and shows the facts of the service's bundle: on load, after a swap of the bundle, and with a new key.
async function show() {
  again.hidden = true;
  try {
    const model = await askJson("/v1/model");
    useBundle(model.fingerprint);
    const [{ attributes }, { examples }] = await Promise.all(["/v1/attributes", "/v1/examples"].map((path) => askJson(path)));
    keyForm.hidden = true;
    const { latent_dim, image_size, padding } = model.config;
    const side = image_size - 2 * padding;
    facts.textContent = `${side} × ${side} pixels, ${latent_dim} bits, bundle ${model.fingerprint.slice(0, 8)}`;
    if (shown === model.fingerprint) return; // only the key has changed
    shown = model.fingerprint;
    for (const part of parts) part({ conditions: model.conditions, attributes, examples });
  } catch (error) {
    facts.textContent = error.message;
    again.hidden = !keyForm.hidden;
  }
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(keyForm.querySelector("input").value);
  show();
});
again.addEventListener("click", show);
document.addEventListener("bundle", show);
choose(tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash) ?? tabs[0]);
show();
