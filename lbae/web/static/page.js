// The page: its tabs, the facts of the model, and what is sent from one tab to another.

import { startEdit } from "./edit.js";
import { startInterpolate } from "./interpolate.js";
import { startSample } from "./sample.js";
import { askJson, useKey } from "./service.js";
import { fill } from "./slots.js";

const tabs = [...document.querySelectorAll("[role=tab]")];
const facts = document.getElementById("model");
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
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(index + step + tabs.length) % tabs.length];
    choose(next);
    next.focus();
  });
});

function send(name, item, picture) {
  choose(tabs.find((tab) => tab.id === (name === "edited" ? "tab-edit" : "tab-interpolate")));
  fill(name, item, picture);
}

async function start() {
  try {
    const [model, { attributes }, { examples }] = await Promise.all(
      ["/v1/model", "/v1/attributes", "/v1/examples"].map((path) => askJson(path)),
    );
    document.getElementById("key").hidden = true;
    const { latent_dim, image_size, padding } = model.config;
    const side = image_size - 2 * padding;
    facts.textContent = `${side} × ${side} pixels, ${latent_dim} bits, bundle ${model.fingerprint.slice(0, 8)}`;
    startInterpolate(panel("interpolate"), examples);
    startEdit(panel("edit"), Object.keys(attributes), examples);
    startSample(panel("sample"), model, send);
  } catch (error) {
    facts.textContent = error.message;
  }
}

document.getElementById("key").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(event.target.querySelector("input").value);
  start();
});
choose(tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash) ?? tabs[0]);
start();
