"""The bundle registry's assignments in answer to heartbeats that the tests send."""

import asyncio
import dataclasses
import re
import time
from pathlib import Path

import numpy as np
import pytest
from botocore.exceptions import EndpointConnectionError

from lbae.core.bundle import Bundle
from lbae.distributed.serve import bundle_registry, replica_bundles
from lbae.distributed.serve.bundle_registry import BundleRegistry, RegistryState
from lbae.distributed.serve.replica_bundles import ReplicaBundles
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.output import UNFINISHED
from lbae.io.storage.location import resolve
from tests.bundles import untrained_bundle


@pytest.fixture(autouse=True)
def settled(monkeypatch) -> None:
    """Registries do not wait for replicas that they have not heard from yet."""
    monkeypatch.setattr(bundle_registry, "_SETTLE_S", 0.0)


@pytest.fixture(scope="module")
def other(pipeline, tmp_path_factory) -> str:
    return untrained_bundle(pipeline, tmp_path_factory.mktemp("other"))


def fingerprint(uri: str) -> str:
    return read_manifest(uri).fingerprint


async def beat(registry: BundleRegistry, name: str, *held: str, serving=None):
    assignment = await registry.heartbeat(name, frozenset(map(fingerprint, held)), serving)
    return [version.uri for version in assignment.hold], assignment.serve


async def until(registry: BundleRegistry, wanted) -> None:
    for _ in range(1500):
        if wanted(registry.state()):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(registry.state())


def test_a_new_bundle_is_served_when_all_replicas_hold_it(pipeline, other):
    async def run():
        registry, old = BundleRegistry(pipeline.bundle, False, keep_s=60), pipeline.bundle
        assert (await beat(registry, "a"))[0] == [old]
        await beat(registry, "b", old)
        assert (await registry.swap(other)).fingerprint == fingerprint(other)
        hold, answer = await beat(registry, "a", old)
        assert (hold, answer.uri) == ([old, other], old)
        assert (await beat(registry, "a", old, other))[1].uri == old  # b does not hold it yet
        hold, answer = await beat(registry, "b", old, other)
        assert (hold, answer.uri) == ([old, other], other)
        assert registry.state().current == answer

    asyncio.run(run())


def test_a_swap_ignores_dead_replicas_and_drops_the_old_bundle(pipeline, other, monkeypatch):
    monkeypatch.setattr(bundle_registry, "_DEAD_S", 2.0)

    async def run():
        registry = BundleRegistry(pipeline.bundle, False, keep_s=0.2)
        await beat(registry, "dead")
        await registry.swap(other)
        assert (await beat(registry, "a", pipeline.bundle, other))[1].uri == pipeline.bundle
        time.sleep(2.1)
        assert (await beat(registry, "a", pipeline.bundle, other))[1].uri == other
        time.sleep(0.25)
        assert (await beat(registry, "a", pipeline.bundle, other))[0] == [other]

    asyncio.run(run())


def test_a_swap_during_a_swap_and_back(pipeline, other, tmp_path):
    third = untrained_bundle(pipeline, tmp_path)

    async def run():
        registry = BundleRegistry(pipeline.bundle, False, keep_s=60)
        await beat(registry, "a")
        await registry.swap(other)
        await registry.swap(third)
        assert (await beat(registry, "a", pipeline.bundle, other))[0] == [pipeline.bundle, third]
        assert (await beat(registry, "a", pipeline.bundle, third))[1].uri == third
        await registry.swap(pipeline.bundle)
        assert (await beat(registry, "a", pipeline.bundle, third))[1].uri == pipeline.bundle

    asyncio.run(run())


def test_a_restarted_registry_learns_from_its_replicas(pipeline, other):
    async def run():
        registry = BundleRegistry(pipeline.bundle, False, keep_s=60)
        await registry.swap(other)
        serving = (await beat(registry, "a", pipeline.bundle, other))[1]
        again = BundleRegistry(pipeline.bundle, False, keep_s=60)
        await beat(again, "new")
        hold, answer = await beat(again, "a", other, serving=serving)
        assert (hold[-1], answer) == (other, serving)
        parts = await again.fetch(dataclasses.replace(serving, number=7))
        assert await parts["fingerprint"] == fingerprint(other)

    asyncio.run(run())


def test_a_restarted_registry_waits_for_replicas_that_it_does_not_know_yet(pipeline, other, monkeypatch):
    monkeypatch.setattr(bundle_registry, "_SETTLE_S", 1.0)

    async def run():
        registry, old = BundleRegistry(pipeline.bundle, False, keep_s=60), pipeline.bundle
        await beat(registry, "quick", old)
        await registry.swap(other)
        assert (await beat(registry, "quick", old, other))[1].uri == old
        await beat(registry, "late", old)
        await asyncio.sleep(1)
        assert (await beat(registry, "quick", old, other))[1].uri == old, "late does not hold it yet"
        assert (await beat(registry, "late", old, other))[1].uri == other

    asyncio.run(run())


def test_a_restarted_registry_needs_neither_its_first_bundle_nor_its_pointer(pipeline, tmp_path):
    async def run():
        before = BundleRegistry(pipeline.bundle, False, keep_s=60)
        serving = (await beat(before, "a", pipeline.bundle))[1]
        for uri, follow in ((str(tmp_path / "gone"), False), (str(tmp_path / "pointer"), True)):
            again = BundleRegistry(uri, follow, keep_s=60)
            with pytest.raises(LbaeError, match=r"there is no bundle to serve: .* does not exist"):
                await beat(again, "new")
            assert await beat(again, "a", pipeline.bundle, serving=serving) == (
                [pipeline.bundle],
                serving,
            )
            assert (await beat(again, "new"))[1] == serving
            assert again.state() == RegistryState(serving, serving, None)

    asyncio.run(run())


class Handle:
    """Calls a registry as Ray Serve's handle does."""

    def __init__(self, registry: BundleRegistry) -> None:
        self.heartbeat = self
        self.remote = registry.heartbeat


def test_a_swap_waits_for_a_replica_that_opens_the_bundle_slowly(pipeline, other, monkeypatch):
    monkeypatch.setattr(replica_bundles, "_HEARTBEAT_S", 0.02)
    monkeypatch.setattr(bundle_registry, "_DEAD_S", 0.2)

    async def run():
        registry, go_on = BundleRegistry(pipeline.bundle, False, keep_s=60), asyncio.Event()

        async def at_once(version):
            return version.uri

        async def slowly(version):
            if version.uri == other:
                await go_on.wait()
            return version.uri

        replicas = [
            ReplicaBundles(Handle(registry), "fast", at_once),
            ReplicaBundles(Handle(registry), "slow", slowly),
        ]
        for replica in replicas:
            await replica.start()
        await registry.swap(other)
        await asyncio.sleep(1)
        assert [replica.current() for replica in replicas] == [pipeline.bundle] * 2
        go_on.set()
        await until(registry, lambda state: [replica.current() for replica in replicas] == [other] * 2)

    asyncio.run(run())


def test_a_bundle_that_fails_to_open_is_retried_while_the_old_one_serves(
    pipeline, other, monkeypatch, caplog
):
    monkeypatch.setattr(replica_bundles, "_HEARTBEAT_S", 0.02)

    async def run():
        registry, tries = BundleRegistry(pipeline.bundle, False, keep_s=60), []

        async def opened(version):
            if version.uri == other and (tries.append(version) or len(tries) < 3):
                raise OSError("no memory")
            return version.uri

        replica = ReplicaBundles(Handle(registry), "a", opened)
        await replica.start()
        await registry.swap(other)
        await until(registry, lambda state: bool(tries))
        assert replica.current() == pipeline.bundle
        await until(registry, lambda state: replica.current() == other)

    asyncio.run(run())


def test_replicas_share_all_large_matrices(pipeline, ray_session):
    async def run():
        registry = BundleRegistry(pipeline.bundle, False, keep_s=60)
        references = await registry.fetch(registry.state().current)
        bundle = Bundle(**{field.name: await references[field.name] for field in dataclasses.fields(Bundle)})
        before = {
            id(array): array for array in vars(bundle.normals).values() if isinstance(array, np.ndarray)
        }
        bundle.interpolate(bundle.sample(2, 0), 3)
        after = [array for array in vars(bundle.normals).values() if isinstance(array, np.ndarray)]
        assert len(after) == 3
        assert all(id(array) in before and not array.flags.writeable for array in after), (
            "they are views of the object store"
        )

    asyncio.run(run())


def test_a_bundle_that_cannot_be_served_is_refused(pipeline, tmp_path):
    larger = untrained_bundle(pipeline, tmp_path / "larger", padding=0)
    spoilt = untrained_bundle(pipeline, tmp_path / "spoilt", nearly_equal=True)
    unfinished = tmp_path / "unfinished"
    resolve(str(unfinished / UNFINISHED)).write_bytes(b"bundle")

    async def run():
        registry = BundleRegistry(pipeline.bundle, False, keep_s=60)
        for uri, kind, message in (
            (larger, UserError, r"makes images of \(32, 32, 1\) .*allowed: \(28, 28, 1\)"),
            (spoilt, UserError, r"cannot be served: its normals' factor is damaged"),
            (str(unfinished), UserError, "is not a finished artifact"),
            (pipeline.model, UserError, "is of kind model; allowed here: bundle"),
            (f"{tmp_path}/nothing", UserError, "does not exist"),
        ):
            refused = await registry.swap(uri)
            with pytest.raises(kind, match=message):
                raise refused
            assert registry.state().problem == str(refused)
            assert registry.state().next.uri == pipeline.bundle
        await registry.swap(pipeline.bundle)
        assert registry.state().problem is None

    asyncio.run(run())


def test_a_pointer_is_followed(pipeline, other, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_registry, "_POLL_S", 0.02)
    monkeypatch.setattr(bundle_registry, "_RETRY_S", 0.02)
    pointer = tmp_path / "current"
    pointer.write_text(pipeline.bundle + "\n")

    async def run():
        registry = BundleRegistry(str(pointer), True, keep_s=60)
        await beat(registry, "a")
        assert (
            str(await registry.swap(other))
            == f"this service follows {pointer}; write the URI of the bundle into that file"
        )
        pointer.write_text("nowhere")
        await until(registry, lambda state: re.search("pointer .*'nowhere'", state.problem or ""))
        pointer.write_text(str(tmp_path / "none"))
        await until(registry, lambda state: "does not exist" in (state.problem or ""))
        pointer.unlink()
        await until(registry, lambda state: f"pointer {pointer} does not exist" in (state.problem or ""))
        assert registry.state().next.uri == pipeline.bundle
        pointer.write_text(other)
        await until(registry, lambda state: state.next.uri == other and state.problem is None)

    asyncio.run(run())


def test_a_pointer_to_a_refused_or_replaced_bundle(pipeline, tmp_path, monkeypatch, caplog):
    """The served bundle stays. A refused bundle is read again only if the pointer or the bundle changes."""
    monkeypatch.setattr(bundle_registry, "_POLL_S", 0.02)
    monkeypatch.setattr(bundle_registry, "_RETRY_S", 0.02)
    pointer, larger, unfinished = (
        tmp_path / "current",
        untrained_bundle(pipeline, tmp_path, padding=0),
        tmp_path / "unfinished",
    )
    other = untrained_bundle(pipeline, tmp_path / "other")
    resolve(str(unfinished / UNFINISHED)).write_bytes(b"bundle")
    pointer.write_text(pipeline.bundle)
    loaded = []
    load = bundle_registry.load_bundle
    monkeypatch.setattr(
        bundle_registry, "load_bundle", lambda uri, device: loaded.append(uri) or load(uri, device)
    )

    async def run():
        registry = BundleRegistry(str(pointer), True, keep_s=60)
        await beat(registry, "a")
        pointer.write_text(str(unfinished))
        await until(registry, lambda state: "is not a finished artifact" in (state.problem or ""))
        pointer.write_text(larger)
        await until(registry, lambda state: "makes images of (32, 32, 1)" in (state.problem or ""))
        await asyncio.sleep(0.5)
        assert loaded == [pipeline.bundle, larger]
        assert registry.state().next.uri == pipeline.bundle
        pointer.write_text(pipeline.bundle)
        await until(registry, lambda state: state.problem is None)
        pointer.write_text(larger)
        await until(registry, lambda state: state.problem is not None)
        untrained_bundle(pipeline, tmp_path)  # replaces ``larger``, and can be served
        await until(registry, lambda state: state.next.uri == larger and state.problem is None)
        first = registry.state().next.fingerprint
        untrained_bundle(pipeline, tmp_path)  # replaces it again, as `pipeline.py --overwrite` does
        await until(registry, lambda state: state.next.fingerprint != first and state.problem is None)
        loaded.clear()
        Path(other, "weights.safetensors").write_bytes(b"damaged")
        pointer.write_text(other)
        await until(registry, lambda state: "do not match its manifest" in (state.problem or ""))
        await asyncio.sleep(0.5)
        assert loaded == [other]

    asyncio.run(run())
    assert len([record for record in caplog.records if "the service keeps its bundle" in record.message]) >= 4


def test_unforeseen_storage_errors_do_not_stop_following_the_pointer(pipeline, other, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle_registry, "_POLL_S", 0.02)
    monkeypatch.setattr(bundle_registry, "_RETRY_S", 0.02)
    pointer = tmp_path / "current"
    pointer.write_text(pipeline.bundle)

    async def run():
        registry = BundleRegistry(str(pointer), True, keep_s=60)
        with monkeypatch.context() as patch:
            patch.setattr(
                bundle_registry,
                "read_pointer",
                lambda uri: (_ for _ in ()).throw(EndpointConnectionError(endpoint_url="x")),
            )
            await beat(registry, "a")
            await until(registry, lambda state: "Could not connect" in (state.problem or ""))
        pointer.write_text(other)
        await until(registry, lambda state: state.next.uri == other and state.problem is None)

    asyncio.run(run())


def test_fetching_a_bundle_that_was_replaced_at_its_uri_is_an_error(pipeline):
    async def run():
        registry = BundleRegistry(pipeline.bundle, False, keep_s=60)
        with pytest.raises(LbaeError, match=r"holds bundle \w+ now; gone is needed"):
            await registry.fetch(dataclasses.replace(registry.state().current, fingerprint="gone"))

    asyncio.run(run())
