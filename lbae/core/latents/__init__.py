"""Single latents: packing, distances, attribute names, editing, interpolation."""
