"""Priors from moments: correlation repair, samplers, mixtures, and checks of what they draw."""
