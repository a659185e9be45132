"""Single latents: packing, distances, attribute statistics, editing, interpolation."""
