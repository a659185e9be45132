"""The HTTP service: a FastAPI app over a backend object; no Ray."""
