"""Passes over a latent table as Ray tasks, shared by several stages."""
