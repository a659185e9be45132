"""Experiment tracking: what a job stores is copied to MLflow or Weights & Biases."""
