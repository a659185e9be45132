"""The Ray cluster: connection, resources, storage checks, tasks and actor pools."""
