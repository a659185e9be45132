"""What a job says of nodes that leave its cluster; test_dying_in_every_stage kills real ones."""

from lbae.distributed.cluster import node_watch


def node(name: str, cpus: int, *, alive: bool = True, why: str = "") -> dict:
    found = {
        "NodeID": name,
        "Alive": alive,
        "NodeManagerAddress": f"10.0.0.{name}",
        "DeathReasonMessage": why,
    }
    return {**found, "Resources": {"CPU": cpus} if alive else {}}


def test_a_lost_node_and_a_cluster_without_cpus_are_named(caplog):
    head, worker = node("1", 0), node("2", 4)
    before = node_watch._alive([head, worker])
    assert node_watch._report(before, [head, worker, node("3", 4)]).keys() == {"1", "2", "3"}
    assert caplog.messages == []
    left = node_watch._report(before, [head, node("2", 4, alive=False, why="health check\nfailed")])
    assert left.keys() == {"1"}
    assert caplog.messages == [
        "node 10.0.0.2 left the cluster (health check failed); what it had not finished is done again by"
        " other nodes",
        "no node with CPUs is left: the job waits for one to join, or stop it",
    ]
    caplog.clear()
    node_watch._report(left, [head])
    assert caplog.messages == [], "each loss is said once"
