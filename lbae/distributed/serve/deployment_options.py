"""What a user sets for one deployment of a service, on the command line or in a Serve config.

Serve's own ``deployments`` in a config file does not replace this. There, ``ray_actor_options`` drop the
memory and the environment that this package sets, and ``num_replicas`` has no effect beside autoscaling.
"""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from lbae.errors import UserError


class DeploymentOptions(BaseModel):
    """Options of one deployment; what is omitted follows from those of the service and from the cluster."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    replicas: int | None = None
    max_replicas: int | None = None
    target_requests: float | None = None
    cpus: float | None = None
    memory_gb: float | None = None


_FORM = (
    f"allowed: NAME:OPTION=NUMBER,... with the options {', '.join(DeploymentOptions.model_fields)}, such as"
    " Codec:replicas=2,cpus=4"
)


def deployment_options(words: Sequence[str]) -> dict[str, DeploymentOptions]:
    """Options by deployment, from words such as ``Codec:replicas=2,cpus=4``; UserError if malformed."""
    found: dict[str, DeploymentOptions] = {}
    for word in words:
        name, _, text = word.partition(":")
        pairs = [pair.partition("=") for pair in text.split(",")]
        given = {option.strip(): value for option, _, value in pairs}
        if len(given) < len(pairs) or name in found:
            raise UserError(f"deployment is {word!r}, which sets {name} or an option twice; give each once")
        try:
            found[name] = DeploymentOptions.model_validate(given)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(
                f"deployment is {word!r}: {first['loc'][0] or 'its list of options'} is wrong"
                f" ({first['msg']}); {_FORM}"
            ) from error
    return found
