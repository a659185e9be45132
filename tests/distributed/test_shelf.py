"""Which bundle replicas are told to answer from, with nobody but this test asking."""

import asyncio
import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
from botocore.exceptions import EndpointConnectionError

from lbae.config import Config
from lbae.core.network.autoencoder import LatentBernoulliAutoencoder
from lbae.distributed.serve import bundle_registry as shelves
from lbae.distributed.serve.bundle_registry import Shelf, Shelved
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts import bundle_artifact as bundle_io
from lbae.io.artifacts.manifest import read_manifest
from lbae.io.artifacts.model_artifact import load_network, save_model
from lbae.io.artifacts.output import UNFINISHED, Output
from lbae.io.storage.location import resolve


def another(pipeline, out, scale=1.0, **changes) -> str:
    """The pipeline's bundle with a network that nobody trained, and its normals' factor times ``scale``."""
    config = load_network(pipeline.model)[1]
    config = Config(model=dataclasses.replace(config.model, **changes), train=config.train)
    output = Output(f"{out}/model", "model", parents={}, config=config.to_dict())
    save_model(output, LatentBernoulliAutoencoder(config.model), config, {"images": 0})
    first, manifest = bundle_io.load_bundle(pipeline.bundle, "cpu"), read_manifest(pipeline.bundle)
    bundle_io.save_bundle(
        Output(f"{out}/bundle", "bundle", parents={}, config=manifest.config),
        model=f"{out}/model",
        prior=first.prior,
        pooled_factor=scale * first.normals.factor,
        attributes=first.attributes,
        examples=first.examples,
        rows=manifest.rows,
        result={},
        report={},
    )
    return f"{out}/bundle"


@pytest.fixture(scope="module")
def other(pipeline, tmp_path_factory) -> str:
    return another(pipeline, tmp_path_factory.mktemp("other"))


def fingerprint(uri: str) -> str:
    return read_manifest(uri).fingerprint


async def asks(shelf: Shelf, name: str, *held: str, answering=None):
    orders = await shelf.ask(name, frozenset(map(fingerprint, held)), answering)
    return [edition.uri for edition in orders.hold], orders.answer


async def until(shelf: Shelf, wanted) -> None:
    for _ in range(1500):
        if wanted(shelf.state()):
            return
        await asyncio.sleep(0.02)
    raise AssertionError(shelf.state())


def test_a_new_bundle_is_answered_from_when_all_hold_it(pipeline, other):
    async def run():
        shelf, old = Shelf(pipeline.bundle, False, keep_s=60), pipeline.bundle
        assert (await asks(shelf, "a"))[0] == [old]
        await asks(shelf, "b", old)
        assert (await shelf.swap(other)).fingerprint == fingerprint(other)
        hold, answer = await asks(shelf, "a", old)
        assert (hold, answer.uri) == ([old, other], old)
        assert (await asks(shelf, "a", old, other))[1].uri == old  # b does not hold it yet
        hold, answer = await asks(shelf, "b", old, other)
        assert (hold, answer.uri) == ([old, other], other)
        assert shelf.state().current == answer

    asyncio.run(run())


def test_a_replica_that_is_gone_is_not_waited_for_and_old_bundles_go(pipeline, other, monkeypatch):
    monkeypatch.setattr(shelves, "_GONE_S", 2.0)

    async def run():
        shelf = Shelf(pipeline.bundle, False, keep_s=0.2)
        await asks(shelf, "dead")
        await shelf.swap(other)
        assert (await asks(shelf, "a", pipeline.bundle, other))[1].uri == pipeline.bundle
        time.sleep(2.1)
        assert (await asks(shelf, "a", pipeline.bundle, other))[1].uri == other
        time.sleep(0.25)
        assert (await asks(shelf, "a", pipeline.bundle, other))[0] == [other]

    asyncio.run(run())


def test_a_swap_during_a_swap_and_back(pipeline, other, tmp_path):
    third = another(pipeline, tmp_path)

    async def run():
        shelf = Shelf(pipeline.bundle, False, keep_s=60)
        await asks(shelf, "a")
        await shelf.swap(other)
        await shelf.swap(third)
        assert (await asks(shelf, "a", pipeline.bundle, other))[0] == [pipeline.bundle, third]
        assert (await asks(shelf, "a", pipeline.bundle, third))[1].uri == third
        await shelf.swap(pipeline.bundle)
        assert (await asks(shelf, "a", pipeline.bundle, third))[1].uri == pipeline.bundle

    asyncio.run(run())


def test_a_shelf_that_was_started_again_learns_from_its_replicas(pipeline, other):
    async def run():
        shelf = Shelf(pipeline.bundle, False, keep_s=60)
        await shelf.swap(other)
        answering = (await asks(shelf, "a", pipeline.bundle, other))[1]
        again = Shelf(pipeline.bundle, False, keep_s=60)
        await asks(again, "new")
        hold, answer = await asks(again, "a", other, answering=answering)
        assert (hold[-1], answer) == (other, answering)
        (reference,) = await again.take(dataclasses.replace(answering, number=7))
        assert (await reference).fingerprint == fingerprint(other)

    asyncio.run(run())


def test_a_shelf_that_was_started_again_needs_neither_its_first_bundle_nor_its_pointer(pipeline, tmp_path):
    async def run():
        before = Shelf(pipeline.bundle, False, keep_s=60)
        answering = (await asks(before, "a", pipeline.bundle))[1]
        for uri, follow in ((str(tmp_path / "gone"), False), (str(tmp_path / "pointer"), True)):
            again = Shelf(uri, follow, keep_s=60)
            with pytest.raises(LbaeError, match=r"there is no bundle to answer from: .* does not exist"):
                await asks(again, "new")
            assert await asks(again, "a", pipeline.bundle, answering=answering) == (
                [pipeline.bundle],
                answering,
            )
            assert (await asks(again, "new"))[1] == answering
            assert again.state() == shelves.State(answering, answering, None)

    asyncio.run(run())


class Handle:
    """Calls a shelf as Ray Serve's handle does."""

    def __init__(self, shelf: Shelf) -> None:
        self.ask = self
        self.remote = shelf.ask


def test_a_replica_that_takes_long_to_open_a_bundle_is_waited_for(pipeline, other, monkeypatch):
    monkeypatch.setattr(shelves, "_ASK_S", 0.02)
    monkeypatch.setattr(shelves, "_GONE_S", 0.2)

    async def run():
        shelf, go_on = Shelf(pipeline.bundle, False, keep_s=60), asyncio.Event()

        async def at_once(edition):
            return edition.uri

        async def slowly(edition):
            if edition.uri == other:
                await go_on.wait()
            return edition.uri

        replicas = [Shelved(Handle(shelf), "fast", at_once), Shelved(Handle(shelf), "slow", slowly)]
        for replica in replicas:
            await replica.start()
        await shelf.swap(other)
        await asyncio.sleep(1)
        assert [replica.current() for replica in replicas] == [pipeline.bundle] * 2
        go_on.set()
        await until(shelf, lambda state: [replica.current() for replica in replicas] == [other] * 2)

    asyncio.run(run())


def test_a_bundle_that_cannot_be_opened_is_tried_again_and_the_one_before_goes_on(
    pipeline, other, monkeypatch, caplog
):
    monkeypatch.setattr(shelves, "_ASK_S", 0.02)

    async def run():
        shelf, tries = Shelf(pipeline.bundle, False, keep_s=60), []

        async def opened(edition):
            if edition.uri == other and (tries.append(edition) or len(tries) < 3):
                raise OSError("no memory")
            return edition.uri

        replica = Shelved(Handle(shelf), "a", opened)
        await replica.start()
        await shelf.swap(other)
        await until(shelf, lambda state: bool(tries))
        assert replica.current() == pipeline.bundle
        await until(shelf, lambda state: replica.current() == other)

    asyncio.run(run())


def test_replicas_share_all_large_matrices(pipeline, ray_session):
    async def run():
        shelf = Shelf(pipeline.bundle, False, keep_s=60)
        (reference,) = await shelf.take(shelf.state().current)
        bundle = await reference
        before = {
            id(array): array for array in vars(bundle.normals).values() if isinstance(array, np.ndarray)
        }
        bundle.edit(bundle.sample(1, 0), set_=["label=7"], method="hyperplane")
        after = [array for array in vars(bundle.normals).values() if isinstance(array, np.ndarray)]
        assert len(after) == 3
        assert all(id(array) in before and not array.flags.writeable for array in after), (
            "they lie in the object store"
        )

    asyncio.run(run())


def test_a_bundle_that_cannot_be_served_is_refused(pipeline, tmp_path):
    larger = another(pipeline, tmp_path / "larger", padding=0)
    spoilt = another(pipeline, tmp_path / "spoilt", scale=0.01)
    unfinished = tmp_path / "unfinished"
    resolve(str(unfinished / UNFINISHED)).write_bytes(b"bundle")

    async def run():
        shelf = Shelf(pipeline.bundle, False, keep_s=60)
        for uri, kind, message in (
            (larger, UserError, r"makes images of \(32, 32, 1\) .*allowed: \(28, 28, 1\)"),
            (spoilt, UserError, r"cannot be served: its normals' factor is damaged"),
            (str(unfinished), UserError, "is not a finished artifact"),
            (pipeline.model, UserError, "is a model; a bundle is needed here"),
            (f"{tmp_path}/nothing", UserError, "does not exist"),
        ):
            refused = await shelf.swap(uri)
            with pytest.raises(kind, match=message):
                raise refused
            assert shelf.state().problem == str(refused)
            assert shelf.state().next.uri == pipeline.bundle
        await shelf.swap(pipeline.bundle)
        assert shelf.state().problem is None

    asyncio.run(run())


def test_a_pointer_is_followed(pipeline, other, tmp_path, monkeypatch):
    monkeypatch.setattr(shelves, "_ASK_S", 0.02)
    monkeypatch.setattr(shelves, "_AGAIN_S", 0.02)
    pointer = tmp_path / "current"
    pointer.write_text(pipeline.bundle + "\n")

    async def run():
        shelf = Shelf(str(pointer), True, keep_s=60)
        await asks(shelf, "a")
        assert (
            str(await shelf.swap(other))
            == f"this service follows {pointer}; write the URI of the bundle into that file"
        )
        pointer.write_text("nowhere")
        await until(shelf, lambda state: "pointer" in (state.problem or "") and "'nowhere'" in state.problem)
        pointer.write_text(str(tmp_path / "none"))
        await until(shelf, lambda state: "does not exist" in (state.problem or ""))
        pointer.unlink()
        await until(shelf, lambda state: f"pointer {pointer} does not exist" in (state.problem or ""))
        assert shelf.state().next.uri == pipeline.bundle
        pointer.write_text(other)
        await until(shelf, lambda state: state.next.uri == other and state.problem is None)

    asyncio.run(run())


def test_a_pointer_to_what_cannot_be_served_or_was_replaced(pipeline, tmp_path, monkeypatch, caplog):
    """The bundle that is served goes on; what was refused is not read again, until the pointer or the bundle
    changes.
    """
    monkeypatch.setattr(shelves, "_ASK_S", 0.02)
    monkeypatch.setattr(shelves, "_AGAIN_S", 0.02)
    pointer, larger, unfinished = (
        tmp_path / "current",
        another(pipeline, tmp_path, padding=0),
        tmp_path / "unfinished",
    )
    other = another(pipeline, tmp_path / "other")
    resolve(str(unfinished / UNFINISHED)).write_bytes(b"bundle")
    pointer.write_text(pipeline.bundle)
    loaded = []
    load = shelves.load_bundle
    monkeypatch.setattr(shelves, "load_bundle", lambda uri, device: loaded.append(uri) or load(uri, device))

    async def run():
        shelf = Shelf(str(pointer), True, keep_s=60)
        await asks(shelf, "a")
        pointer.write_text(str(unfinished))
        await until(shelf, lambda state: "is not a finished artifact" in (state.problem or ""))
        pointer.write_text(larger)
        await until(shelf, lambda state: "makes images of (32, 32, 1)" in (state.problem or ""))
        await asyncio.sleep(0.5)
        assert loaded == [pipeline.bundle, larger]
        assert shelf.state().next.uri == pipeline.bundle
        pointer.write_text(pipeline.bundle)
        await until(shelf, lambda state: state.problem is None)
        pointer.write_text(larger)
        await until(shelf, lambda state: state.problem is not None)
        another(pipeline, tmp_path)  # at the same place as the larger one, and one that can be served
        await until(shelf, lambda state: state.next.uri == larger and state.problem is None)
        first = shelf.state().next.fingerprint
        another(pipeline, tmp_path)  # and another one there, as `pipeline.py --overwrite` leaves it
        await until(shelf, lambda state: state.next.fingerprint != first and state.problem is None)
        loaded.clear()
        Path(other, "weights.safetensors").write_bytes(b"damaged")
        pointer.write_text(other)
        await until(
            shelf, lambda state: "are not the ones its manifest was written for" in (state.problem or "")
        )
        await asyncio.sleep(0.5)
        assert loaded == [other]

    asyncio.run(run())
    assert (
        len([record for record in caplog.records if "goes on that was served before" in record.message]) >= 4
    )


def test_storage_that_fails_in_a_way_of_its_own_does_not_end_the_following(
    pipeline, other, tmp_path, monkeypatch
):
    monkeypatch.setattr(shelves, "_ASK_S", 0.02)
    monkeypatch.setattr(shelves, "_AGAIN_S", 0.02)
    pointer = tmp_path / "current"
    pointer.write_text(pipeline.bundle)

    async def run():
        shelf = Shelf(str(pointer), True, keep_s=60)
        with monkeypatch.context() as patch:
            patch.setattr(
                shelves,
                "read_pointer",
                lambda uri: (_ for _ in ()).throw(EndpointConnectionError(endpoint_url="x")),
            )
            await asks(shelf, "a")
            await until(shelf, lambda state: "Could not connect" in (state.problem or ""))
        pointer.write_text(other)
        await until(shelf, lambda state: state.next.uri == other and state.problem is None)

    asyncio.run(run())


def test_a_bundle_that_changed_under_its_uri_is_a_mistake_for_those_who_need_the_old_one(pipeline):
    async def run():
        shelf = Shelf(pipeline.bundle, False, keep_s=60)
        with pytest.raises(LbaeError, match="holds another bundle now"):
            await shelf.take(dataclasses.replace(shelf.state().current, fingerprint="gone"))

    asyncio.run(run())
