// The Sample tab: new images by seed, count and attributes.

import { gallery } from "./gallery.js";
import { askJson, decoded, runner, showCurl } from "./service.js";

function conditionsOf(section) {
  const given = {};
  for (const choice of section.querySelectorAll(".choices select")) {
    if (choice.value) given[choice.name] = choice.value === "with";
  }
  return given;
}

function offer(section, names) {
  section.querySelector(".conditions").hidden = names.length === 0;
  section.querySelector(".choices").replaceChildren();
  for (const name of names) {
    const label = document.createElement("label");
    const choice = document.createElement("select");
    choice.name = name;
    for (const [value, text] of [["", "any"], ["with", "with"], ["without", "without"]]) choice.add(new Option(text, value));
    label.append(name, choice);
    section.querySelector(".choices").append(label);
  }
}

// Returns a function that shows a bundle: its attributes, and a first sample.
export function startSample(section, send) {
  const form = section.querySelector("form");
  const run = runner(section.querySelector(".status"));
  const show = gallery(section, "Sample", send);

  const draw = () =>
    run("Sampling …", async (signal) => {
      const given = conditionsOf(section);
      const wanted = { n: form.n.valueAsNumber, seed: form.seed.valueAsNumber, ...(Object.keys(given).length && { given }) };
      const { latents } = await askJson("/v1/sample", { ...wanted, format: "latents" }, signal);
      const packed = latents.map((latent) => latent.base64);
      show(packed, await decoded(packed, signal));
      showCurl(section.querySelector(".curl"), [{ path: "/v1/sample", body: wanted, out: "samples.png" }]);
    });

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    draw();
  });
  form.chance.addEventListener("click", () => {
    form.seed.value = crypto.getRandomValues(new Uint32Array(1))[0];
    form.requestSubmit();
  });
  return ({ conditions }) => {
    offer(section, conditions);
    show();
    draw();
  };
}
