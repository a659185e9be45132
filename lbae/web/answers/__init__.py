"""What answers hold: images and latents in every format, and errors."""
