"""Encode an image source with Ray Data."""
