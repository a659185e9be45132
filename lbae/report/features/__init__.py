"""Image features and the distances between sets of images."""
