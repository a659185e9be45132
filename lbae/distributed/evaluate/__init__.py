"""Evaluate a bundle with Ray actors and tasks."""
