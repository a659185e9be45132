"""What jobs publish and read: models, latent tables, moment sums, bundles, image tables."""
