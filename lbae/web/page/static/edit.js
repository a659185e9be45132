// The Edit tab: one image with attributes set and unset, and a slider for the strength of each.

import { ask, askJson, decoded, runner, showCurl } from "./service.js";
import { itemOf, slot } from "./slots.js";

const WAIT_MS = 150;

// One edit of all attributes, at the least strength that reaches a confidence.
function untilStep(strengths, until) {
  const moved = [...strengths.querySelectorAll("input")].filter((slider) => slider.valueAsNumber);
  const named = (side) => moved.filter((slider) => Math.sign(slider.valueAsNumber) === side).map((slider) => slider.name);
  return moved.length ? [{ set: named(1), unset: named(-1), until }] : [];
}

// One edit per distinct strength, weakest first, because a request has one strength. Each edits the result of the previous one.
function stepsOf(strengths) {
  const steps = new Map();
  for (const slider of strengths.querySelectorAll("input")) {
    const strength = Math.abs(slider.valueAsNumber);
    if (!strength) continue;
    if (!steps.has(strength)) steps.set(strength, { set: [], unset: [], strength });
    steps.get(strength)[slider.valueAsNumber > 0 ? "set" : "unset"].push(slider.name);
  }
  return [...steps.values()].sort((one, other) => one.strength - other.strength);
}

// Returns a function that shows a bundle: a slider per attribute, and its examples.
export function startEdit(section) {
  const strengths = section.querySelector(".strengths");
  const after = section.querySelector(".after img");
  const download = section.querySelector(".download");
  const status = section.querySelector(".status");
  const guided = section.querySelector("[name=guided]");
  const until = section.querySelector("[name=until]");
  const run = runner(status);
  let waiting = 0;

  const show = (picture, commands) => {
    URL.revokeObjectURL(after.src);
    after.src = download.href = picture;
    after.hidden = download.hidden = false;
    showCurl(section.querySelector(".curl"), commands);
  };

  const draw = () =>
    run("Editing …", async (signal) => {
      let item = itemOf("edited");
      if (!item) throw new Error("Choose an image first: drop a file, click an example, or send a sample here.");
      if (guided.checked && !until.reportValidity()) throw new Error("Give a confidence between 0.01 and 0.99.");
      const steps = guided.checked ? untilStep(strengths, until.valueAsNumber) : stepsOf(strengths);
      if (!steps.length) {
        const body = { latents: [item.latent] };
        show((await decoded(body.latents, signal))[0], [{ path: "/v1/decode", body, out: "results.json" }]);
        return "0 bits changed.";
      }
      const last = steps.pop();
      const commands = [];
      let bits = 0;
      for (const step of steps) {
        const body = { item, ...step, format: "latents" };
        const { latents, bits_changed } = await askJson("/v1/edit", body, signal);
        commands.push({ path: "/v1/edit", body, out: `latent-${commands.length + 1}.json` });
        item = { latent: latents[0].base64 };
        bits += bits_changed;
      }
      const answer = await ask("/v1/edit", { item, ...last }, signal);
      bits += Number(answer.headers.get("x-bits-changed"));
      show(URL.createObjectURL(await answer.blob()), [...commands, { path: "/v1/edit", body: { item, ...last }, out: "edited.png" }]);
      const strength = answer.headers.get("x-strength");
      const taken = strength ? ` Strength ${strength}, confidence ${answer.headers.get("x-confidence")}.` : "";
      return `${bits} bits changed.${taken}`;
    });

  const offer = ([name, { trusted }]) => {
    const label = document.createElement("label");
    const slider = document.createElement("input");
    const output = document.createElement("output");
    Object.assign(slider, { type: "range", name, min: -2, max: 2, step: 0.1, value: 0 });
    slider.setAttribute("list", "strength-marks");
    const say = () => {
      output.textContent = slider.value;
      slider.classList.toggle("neutral", !slider.valueAsNumber);
    };
    say();
    slider.addEventListener("reset", say);
    slider.addEventListener("input", () => {
      say();
      clearTimeout(waiting);
      waiting = setTimeout(draw, WAIT_MS);
    });
    label.append(trusted ? name : `${name} (few images)`, output, slider);
    return label;
  };
  section.querySelector("[name=reset]").addEventListener("click", () => {
    for (const slider of strengths.querySelectorAll("input")) {
      slider.value = 0;
      slider.dispatchEvent(new Event("reset"));
    }
    if (itemOf("edited")) draw();
  });
  for (const control of [guided, until])
    control.addEventListener("change", () => {
      if (itemOf("edited")) draw();
    });
  const offerExamples = slot(section.querySelector(".slot"), status, draw);
  return ({ attributes, examples }) => {
    clearTimeout(waiting);
    after.hidden = download.hidden = true;
    strengths.replaceChildren(...Object.entries(attributes).map(offer));
    offerExamples(examples);
  };
}
