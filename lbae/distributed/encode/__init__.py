"""Encoding with Ray Data."""
