"""How Ray Data hands arguments to its actors: a private property of Ray, read in 2.60.

By reference, as Ray Data does it, every pool of actors that may restart makes Ray's core print an error
("has constructor arguments in the object store and max_restarts > 0"), and an actor could not restart once
the node that holds the arguments is lost. By value they travel with the actor.
"""

from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator


def pass_arguments_by_value() -> None:
    """Let actors of Ray Data in this process get their arguments by value; again is harmless."""
    ActorPoolMapOperator._data_context_ref = property(lambda self: self.data_context)
    ActorPoolMapOperator._map_transformer_ref = property(lambda self: self._map_transformer)
