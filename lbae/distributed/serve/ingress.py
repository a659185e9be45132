"""The deployment that takes the requests."""

from fastapi import FastAPI
from ray.serve.handle import DeploymentHandle


class Ingress:
    """Takes requests. Serve first starts the deployments bound to it."""

    app: FastAPI

    def __init__(self, *dependencies: DeploymentHandle) -> None:
        pass

    def check_health(self) -> None:
        """Raise when the backend is stuck; Serve then replaces this replica."""
        self.app.state.current().check()
