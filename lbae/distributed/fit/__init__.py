"""Fitting a prior in Ray tasks."""
