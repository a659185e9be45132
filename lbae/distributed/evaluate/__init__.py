"""Evaluation in Ray actors and tasks."""
