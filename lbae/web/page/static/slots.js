// Places for one image: a file dropped or chosen, a sample, or one of the bundle's examples.

import { askJson, pictureOf, runner } from "./service.js";

const slots = {};

// Puts a packed latent in base64, with the address of its picture, into the slot of this name.
export function fill(name, latent, picture) {
  slots[name].fill(latent, picture);
}

// What requests take for the image in a slot: its latent. A file is sent once, and not again for every request.
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

// Makes a slot of an element; `changed` is called when it is filled. Returns what shows the examples of a bundle, and makes
// what the slot holds one of its latents.
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
    image: null, // in base64, where the latent is that of a file
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

  // A file or an example: `read` gives its bytes in base64.
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
        if (!file.type.startsWith("image/")) throw new Error(`${file.name} is no image.`);
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
