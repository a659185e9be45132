"""The autoencoder: network, sign with a straight-through gradient, codec, training loop."""
