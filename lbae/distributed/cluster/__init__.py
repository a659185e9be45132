"""The Ray cluster: connecting, resources, storage checks, tasks over rows."""
