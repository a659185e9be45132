"""Fitting a prior with Ray tasks."""
