// The Vary tab: variations of one image, by strength.

import { gallery } from "./gallery.js";
import { askJson, decoded, runner, showCurl } from "./service.js";
import { itemOf, slot } from "./slots.js";

const WAIT_MS = 150;

// Returns a function that shows a bundle: its examples.
export function startVary(section, send) {
  const form = section.querySelector("form");
  const status = section.querySelector(".status");
  const run = runner(status);
  const show = gallery(section, "Variation", send);
  let seed = 0;
  let waiting = 0;

  const draw = () =>
    run("Varying …", async (signal) => {
      const item = itemOf("varied");
      if (!item) throw new Error("Choose an image first: drop a file, click an example, or send a sample here.");
      const wanted = { item, n: form.n.valueAsNumber, strength: form.strength.valueAsNumber, seed };
      const { latents } = await askJson("/v1/variations", { ...wanted, format: "latents" }, signal);
      const packed = latents.map((latent) => latent.base64);
      show(packed, await decoded(packed, signal));
      showCurl(section.querySelector(".curl"), [{ path: "/v1/variations", body: wanted, out: "variations.png" }]);
    });

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    draw();
  });
  form.others.addEventListener("click", () => {
    seed += 1;
    form.requestSubmit();
  });
  form.strength.addEventListener("input", () => {
    section.querySelector("output").textContent = form.strength.value;
    clearTimeout(waiting);
    if (itemOf("varied")) waiting = setTimeout(draw, WAIT_MS);
  });
  const offerExamples = slot(section.querySelector(".slot"), status, draw);
  return ({ examples }) => {
    clearTimeout(waiting);
    show();
    offerExamples(examples);
  };
}
