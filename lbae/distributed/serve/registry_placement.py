"""Where the bundle registry may run."""

import ray

_NODE = "ray.io/node-id"  # Ray labels every node with its id


def off_idle_nodes() -> dict[str, str]:
    """A label selector for actors that count no CPUs: any node but those that are to do no work.

    Those are the nodes without CPUs, such as a head that was started with ``--num-cpus 0``. Ray would place
    an actor that counts none on them too.
    """
    idle = [node["NodeID"] for node in ray.nodes() if node["Alive"] and not node["Resources"].get("CPU")]
    return {_NODE: f"!in({', '.join(idle)})"} if idle else {}
