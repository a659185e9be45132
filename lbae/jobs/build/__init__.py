"""Jobs from images to a bundle."""
