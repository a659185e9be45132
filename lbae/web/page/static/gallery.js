// A grid of images, of which one can be selected and sent to another tab.

// Turns the grid and the bar below it (`.grid`, `.use`) into a gallery. Returns a function that shows images, given as packed
// latents (base64) and URLs of their pictures; without images the gallery is empty.
export function gallery(section, name, send) {
  const grid = section.querySelector(".grid");
  const use = section.querySelector(".use");
  let shown = null;
  for (const button of use.querySelectorAll("[data-to]")) {
    button.addEventListener("click", () => send(button.dataset.to, shown.latent, shown.picture));
  }
  return (latents = [], pictures = []) => {
    use.hidden = true;
    grid.replaceChildren(
      ...pictures.map((picture, index) => {
        const button = document.createElement("button");
        const image = document.createElement("img");
        Object.assign(image, { src: picture, alt: `${name} ${index + 1}` });
        button.type = "button";
        button.ariaPressed = "false";
        button.append(image);
        button.addEventListener("click", () => {
          for (const other of grid.children) other.ariaPressed = String(other === button);
          shown = { latent: latents[index], picture };
          use.querySelector(".download").href = picture;
          use.hidden = false;
        });
        return button;
      }),
    );
  };
}
