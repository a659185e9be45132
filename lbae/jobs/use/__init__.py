"""Jobs that use a bundle or a latent table."""
