"""The backend that routes call: its interface, a bundle in this process, batching."""
