"""Exact moment sums of latents: the sums, the kernel that makes them, drift between two, health of
the bits."""
