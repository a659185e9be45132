"""The artifacts that jobs publish and read: models, latent tables, moment sums, bundles, image tables."""
