"""From the bytes of a request to checked values, images and latents."""
