"""Drawing a table of images in Ray actors."""
