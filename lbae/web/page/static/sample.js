// The Sample tab: new images by seed, count and attributes.

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
  const grid = section.querySelector(".grid");
  const use = section.querySelector(".use");
  const run = runner(section.querySelector(".status"));
  let shown = null;

  const draw = () =>
    run("Sampling …", async (signal) => {
      const given = conditionsOf(section);
      const wanted = { n: form.n.valueAsNumber, seed: form.seed.valueAsNumber, ...(Object.keys(given).length && { given }) };
      const { latents } = await askJson("/v1/sample", { ...wanted, format: "latents" }, signal);
      const packed = latents.map((latent) => latent.base64);
      const pictures = await decoded(packed, signal);
      use.hidden = true;
      grid.replaceChildren(
        ...pictures.map((picture, index) => {
          const button = document.createElement("button");
          const image = document.createElement("img");
          Object.assign(image, { src: picture, alt: `Sample ${index + 1}` });
          button.type = "button";
          button.ariaPressed = "false";
          button.append(image);
          button.addEventListener("click", () => {
            for (const other of grid.children) other.ariaPressed = String(other === button);
            shown = { latent: packed[index], picture };
            use.querySelector(".download").href = picture;
            use.hidden = false;
          });
          return button;
        }),
      );
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
  for (const button of use.querySelectorAll("[data-to]")) {
    button.addEventListener("click", () => send(button.dataset.to, shown.latent, shown.picture));
  }
  return ({ conditions }) => {
    offer(section, conditions);
    use.hidden = true;
    grid.replaceChildren();
    draw();
  };
}
