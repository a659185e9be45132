"""Exact moment sums of latents, their accumulator, and statistics made from them."""
