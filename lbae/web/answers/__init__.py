"""The contents of responses: images and latents in every format, and errors."""
