"""Reading requests: from their bytes to checked values, images and latents."""
