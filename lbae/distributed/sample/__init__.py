"""Draw a table of images with Ray actors."""
