"""Jobs that lead from images to a bundle."""
