"""Progress, figures and reports; no Ray."""
