// Places for one image: a file dropped or chosen, a sample, or one of the bundle's examples.

import { pictureOf } from "./service.js";

const slots = {};

// Puts an item, {image} or {latent} in base64 with the address of its picture, into the slot of this name.
export function fill(name, item, picture) {
  slots[name].fill(item, picture);
}

export const itemOf = (name) => slots[name].item;

async function base64Of(file) {
  const reader = new FileReader();
  const read = new Promise((resolve, reject) => {
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read.`));
  });
  reader.readAsDataURL(file);
  return (await read).split(",", 2)[1];
}

// Makes a slot of an element; `changed` is called when it is filled, `wrong` with a message when a file is none to use.
export function slot(element, examples, changed, wrong) {
  const { name, label } = element.dataset;
  const drop = document.createElement("label");
  drop.className = "drop";
  const words = document.createElement("span");
  words.textContent = "Drop an image or choose a file";
  const input = document.createElement("input");
  Object.assign(input, { type: "file", accept: "image/*", ariaLabel: `${label}: choose a file` });
  drop.append(words, input);
  const caption = document.createElement("p");
  caption.className = "slot-label";
  caption.textContent = label;

  const mine = {
    item: null,
    fill(item, picture) {
      mine.item = item;
      const image = document.createElement("img");
      Object.assign(image, { src: picture, alt: label });
      drop.replaceChildren(image, input);
      changed();
    },
  };
  slots[name] = mine;

  const take = async (file) => {
    if (!file) return;
    if (!file.type.startsWith("image/")) {
      wrong(`${file.name} is no image.`);
      return;
    }
    try {
      const image = await base64Of(file);
      mine.fill({ image }, `data:${file.type};base64,${image}`);
    } catch (error) {
      wrong(error.message);
    }
  };
  input.addEventListener("change", () => take(input.files[0]));
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    drop.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    });
  }
  drop.addEventListener("drop", (event) => take(event.dataTransfer.files[0]));

  const row = document.createElement("div");
  row.className = "examples";
  examples.forEach((example, index) => {
    const button = document.createElement("button");
    const image = document.createElement("img");
    Object.assign(image, { src: pictureOf(example), alt: `Example ${index + 1}` });
    button.type = "button";
    button.append(image);
    button.addEventListener("click", () => mine.fill({ image: example.image }, image.src));
    row.append(button);
  });
  element.append(drop, caption, row);
}
