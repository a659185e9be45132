// The Interpolate tab: a path between two images, whose frames arrive one by one as they are made.

import { ask, pictureOf, runner, showCurl } from "./service.js";
import { itemOf, slot } from "./slots.js";

// The lines of a streamed response, each as soon as it has arrived.
async function* linesOf(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
}

// Returns a function that shows a bundle: its examples.
export function startInterpolate(section) {
  const form = section.querySelector("form");
  const status = section.querySelector(".status");
  const result = section.querySelector(".result");
  const range = result.querySelector("input");
  const animation = result.querySelector(".animation");
  const run = runner(status);
  let frames = [];

  const show = () => {
    const picture = frames[range.valueAsNumber];
    Object.assign(result.querySelector(".large"), { src: picture, alt: `Frame ${range.valueAsNumber + 1}` });
    result.querySelector(".count").textContent = `Frame ${range.valueAsNumber + 1} of ${frames.length}`;
    result.querySelector(".download").href = picture;
  };

  const draw = () =>
    run("Interpolating …", async (signal, say) => {
      const items = [itemOf("from"), itemOf("to")];
      if (!items[0] || !items[1]) throw new Error("Choose two images first: drop files, click examples, or send samples here.");
      const body = { items, steps: form.steps.valueAsNumber };
      const answer = await ask("/v1/interpolate", { ...body, format: "stream" }, signal);
      const made = []; // not in `frames` yet, which the slider shows meanwhile
      for await (const line of linesOf(answer)) {
        made.push(pictureOf(JSON.parse(line)));
        say(`${made.length} of ${body.steps} frames …`);
      }
      frames = made;
      range.max = frames.length - 1;
      range.value = Math.floor(frames.length / 2);
      animation.hidden = true; // until the animation of these frames has arrived
      result.hidden = false;
      show();
      showCurl(section.querySelector(".curl"), [{ path: "/v1/interpolate", body: { ...body, format: "webp" }, out: "path.webp" }]);
      const whole = await (await ask("/v1/interpolate", { ...body, format: "webp" }, signal)).blob();
      URL.revokeObjectURL(animation.href);
      animation.href = URL.createObjectURL(whole);
      animation.hidden = false;
    });

  const changed = () => {
    if (itemOf("from") && itemOf("to")) draw();
  };
  const slots = [...section.querySelectorAll(".slot")].map((element) => slot(element, status, changed));
  range.addEventListener("input", show);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    draw();
  });
  return ({ examples }) => {
    result.hidden = true;
    for (const offer of slots) offer(examples);
  };
}
