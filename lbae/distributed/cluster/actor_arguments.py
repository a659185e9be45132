"""How Ray Data hands arguments to its actors: private attributes of Ray, read in 2.60.

By reference, as Ray Data does it, every pool of actors that may restart makes Ray's core print an error
("has constructor arguments in the object store and max_restarts > 0"), and an actor could not restart once
the node that holds the arguments is lost. By value they travel with the actor.
"""

import functools
from typing import Any

import ray.cloudpickle
from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator

_ARGUMENTS = {"_data_context_ref": "data_context", "_map_transformer_ref": "_map_transformer"}


class _ByValue:
    """Arrives as the value. Pickled once and beforehand, so that Ray sees no references inside it either."""

    def __init__(self, value: Any) -> None:
        self._pickled = ray.cloudpickle.dumps(value)

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return ray.cloudpickle.loads, (self._pickled,)


def _argument(name: str, operator: Any) -> _ByValue:
    return _ByValue(getattr(operator, name))


def pass_arguments_by_value() -> None:
    """Let actors of Ray Data in this process get their arguments by value; again is harmless."""
    for reference, value in _ARGUMENTS.items():
        argument = functools.cached_property(functools.partial(_argument, value))
        argument.__set_name__(ActorPoolMapOperator, reference)
        setattr(ActorPoolMapOperator, reference, argument)
