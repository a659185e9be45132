// Slots for one image each: a file that was dropped or chosen, a sample, or one of the bundle's examples.

import { askJson, pictureOf, runner } from "./service.js";

const slots = {};

// Fills the slot of this name with a packed latent (base64) and the URL of its picture.
export function fill(name, latent, picture) {
  slots[name].fill(latent, picture);
}

// The image of a slot for a request: its latent, so that a file is uploaded once and not with every request.
export const itemOf = (name) => slots[name].latent && { latent: slots[name].latent };

async function base64Of(file) {
  const reader = new FileReader();
  const read = new Promise((resolve, reject) => {
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
  });
  reader.readAsDataURL(file);
  return (await read).split(",", 2)[1];
}

async function latentOf(image, signal) {
  const [result] = (await askJson("/v1/encode", { images: [image] }, signal)).results;
  if (result.error) throw new Error(result.error.message);
  return result.base64;
}

// Turns an element into a slot; `changed` is called when it is filled. Returns a function that shows a bundle's examples, encodes
// the slot's image file with that bundle, and empties a slot that holds a sample, whose latent means nothing to another bundle.
export function slot(element, status, changed) {
  const { name, label } = element.dataset;
  const run = runner(status);
  const drop = document.createElement("label");
  drop.className = "drop";
  const words = document.createElement("span");
  words.textContent = "Drop an image or choose a file";
  const input = document.createElement("input");
  Object.assign(input, { type: "file", accept: "image/png,image/jpeg,image/webp", ariaLabel: `${label}: choose a file` });
  drop.append(words, input);
  const caption = document.createElement("p");
  caption.className = "slot-label";
  caption.textContent = label;
  const row = document.createElement("div");
  row.className = "examples";
  element.append(drop, caption, row);

  const mine = {
    latent: null,
    image: null, // the file or example (base64) that the latent was encoded from; null for a sample
    fill(latent, picture) {
      Object.assign(mine, { latent, image: null });
      const shown = document.createElement("img");
      Object.assign(shown, { src: picture, alt: label });
      drop.replaceChildren(shown, input);
      changed();
    },
    empty() {
      Object.assign(mine, { latent: null, image: null });
      drop.replaceChildren(words, input);
    },
  };
  slots[name] = mine;

  // Fills the slot from a file or an example; `read` returns its bytes in base64.
  const take = (read, picture) =>
    run("Reading the image …", async (signal) => {
      const image = await read();
      const latent = await latentOf(image, signal);
      mine.fill(latent, picture(image));
      mine.image = image;
    });
  const takeFile = (file) => {
    input.value = ""; // so that the same file can be chosen again
    if (!file) return;
    take(
      async () => {
        if (!file.type.startsWith("image/")) throw new Error(`${file.name} is not an image.`);
        return base64Of(file);
      },
      (image) => `data:${file.type};base64,${image}`,
    );
  };
  input.addEventListener("change", () => takeFile(input.files[0]));
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    });
  }
  drop.addEventListener("drop", (event) => takeFile(event.dataTransfer.files[0]));

  return (examples) => {
    row.replaceChildren(
      ...examples.map((example, index) => {
        const button = document.createElement("button");
        const image = document.createElement("img");
        Object.assign(image, { src: pictureOf(example), alt: `Example ${index + 1}` });
        button.type = "button";
        button.append(image);
        button.addEventListener("click", () => take(async () => example.image, () => image.src));
        return button;
      }),
    );
    const { image } = mine;
    const picture = drop.querySelector("img")?.src;
    mine.empty();
    if (image) take(async () => image, () => picture);
  };
}
