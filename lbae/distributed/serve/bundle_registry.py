"""Which bundle a service answers from: one deployment loads bundles, the replicas that answer take them from
it.

Every replica asks the shelf once a second which bundles to hold and from which of them to answer. A new
bundle is answered from once all that ask hold it, and the one before it is held until the requests that use
it have ended.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import ray
from ray.serve.handle import DeploymentHandle

from lbae.core.bundle import Bundle
from lbae.errors import LbaeError, UserError
from lbae.io.artifacts.bundle_artifact import KIND, load_bundle, read_pointer
from lbae.io.artifacts.manifest import read_manifest
from lbae.web.backend import Backend

_ASK_S = 1.0
_AGAIN_S = 5.0
_GONE_S = 10.0

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True)
class Edition:
    """A bundle, and the how manyth it is that the service answers from."""

    number: int
    uri: str
    fingerprint: str


@dataclass(frozen=True)
class Orders:
    """What a replica is to hold, and what to answer from."""

    hold: tuple[Edition, ...]
    answer: Edition


@dataclass(frozen=True)
class State:
    """What the service answers from, what it changes over to, and why it did not take up what it
    was told to."""

    current: Edition
    next: Edition
    problem: str | None


def _load(uri: str) -> Bundle:
    """A bundle with all that replicas would else compute, and keep, each for itself; UserError where that
    fails.
    """
    bundle = load_bundle(uri, "cpu")
    try:
        bundle.normals.prepare()
    except np.linalg.LinAlgError as error:
        raise UserError(f"bundle {uri} cannot be served: its normals' factor is damaged ({error})") from error
    return bundle


class Shelf:
    """Keeps bundles in the object store, from where the replicas of a node share their large matrices.

    ``uri`` is a bundle's or, to ``follow`` it, that of a file that holds a bundle's URI. Replicas learn why
    it cannot be read when they ask; a shelf that was started again can do without it, since they know what
    they answer from.
    """

    def __init__(self, uri: str, follow: bool, keep_s: float) -> None:
        self._pointer, self._keep_s = uri if follow else None, keep_s
        self._bundles: dict[str, ray.ObjectRef] = {}
        self._image_shape: tuple[int, int, int] | None = None
        self._current: Edition | None = None
        self._next: Edition | None = None
        self._retired: dict[Edition, float] = {}
        self._asked: dict[str, tuple[float, frozenset[str]]] = {}
        self._loading = asyncio.Lock()
        self._problem: str | None = None
        self._following: asyncio.Task[None] | None = None
        try:
            first = read_pointer(uri) if follow else uri
            self._current = self._next = self._put(0, first, _load(first))
        except (LbaeError, OSError) as error:
            self._problem = str(error)

    def _put(self, number: int, uri: str, bundle: Bundle) -> Edition:
        self._image_shape = self._image_shape or bundle.codec.config.image_shape
        if bundle.fingerprint not in self._bundles:
            self._bundles[bundle.fingerprint] = ray.put(bundle)
        return Edition(number, uri, bundle.fingerprint)

    async def swap(self, uri: str) -> Edition | LbaeError:
        """Let all replicas change over to the bundle at a URI. Errors are returned: if raised, Serve would
        log them.
        """
        if self._pointer:
            return UserError(
                f"this service follows {self._pointer}; write the URI of the bundle into that file"
            )
        return await self._change_over(uri)

    async def _change_over(self, uri: str) -> Edition | LbaeError:
        async with self._loading:
            try:
                bundle = await asyncio.to_thread(_load, uri)
                if self._image_shape and bundle.codec.config.image_shape != self._image_shape:
                    raise UserError(
                        f"bundle {uri} makes images of {bundle.codec.config.image_shape} (height, width,"
                        f" channels); allowed:"
                        f" {self._image_shape}, as those of the bundle that this service started with"
                    )
            except (LbaeError, OSError) as error:
                self._problem = str(error)
                return error if isinstance(error, LbaeError) else LbaeError(str(error))
            self._problem = None
            if self._next is None:
                self._current = self._next = self._put(0, uri, bundle)
            elif bundle.fingerprint != self._next.fingerprint:
                self._next = self._put(self._next.number + 1, uri, bundle)
            return self._next

    async def ask(self, replica: str, held: frozenset[str], answering: Edition | None) -> Orders:
        """Orders for a replica that holds the bundles of these fingerprints. LbaeError when there is none to
        hold.
        """
        if answering and self._knows_less(answering):
            await self._adopt(answering)
        current, next_ = self._known()
        if self._pointer and not self._following:
            self._following = asyncio.create_task(self._follow(self._pointer))
        now = time.monotonic()
        self._asked[replica] = now, held
        self._asked = {
            name: (when, what) for name, (when, what) in self._asked.items() if now - when < _GONE_S
        }
        if next_ != current and all(next_.fingerprint in what for _, what in self._asked.values()):
            self._retired[current] = now
            self._current = current = next_
        self._retired = {
            edition: since for edition, since in self._retired.items() if now - since < self._keep_s
        }
        hold = {edition.fingerprint: edition for edition in (*self._retired, current, next_)}
        self._bundles = {name: bundle for name, bundle in self._bundles.items() if name in hold}
        return Orders(tuple(hold.values()), current)

    async def _adopt(self, answering: Edition) -> None:
        """Go on from what a replica answers from, where this shelf was started again and knows of nothing
        that late.
        """
        async with self._loading:
            if self._knows_less(answering):  # the replica before in line may have said the same
                await self._fetch(answering)
                self._current = self._next = answering
                self._problem = None

    def _knows_less(self, answering: Edition) -> bool:
        return self._next is None or answering.number > self._next.number

    async def _fetch(self, edition: Edition) -> None:
        if edition.fingerprint not in self._bundles:
            bundle = await asyncio.to_thread(_load, edition.uri)
            if bundle.fingerprint != edition.fingerprint:
                raise LbaeError(
                    f"{edition.uri} holds another bundle now, {bundle.fingerprint}, than"
                    f" {edition.fingerprint}"
                )
            self._put(edition.number, edition.uri, bundle)

    async def take(self, edition: Edition) -> list[ray.ObjectRef]:
        """A bundle, by reference: a bare reference would be replaced by what it refers to."""
        await self._fetch(edition)
        return [self._bundles[edition.fingerprint]]

    def state(self) -> State:
        """For who watches the service. LbaeError when there is no bundle to answer from."""
        return State(*self._known(), self._problem)

    def _known(self) -> tuple[Edition, Edition]:
        if self._current is None or self._next is None:
            raise LbaeError(f"there is no bundle to answer from: {self._problem}")
        return self._current, self._next

    async def _follow(self, pointer: str) -> None:
        refused: tuple[str, str] | None = None
        while True:
            await asyncio.sleep(_AGAIN_S if self._problem else _ASK_S)
            before = self._problem
            try:
                refused = await self._look(pointer, refused)
            except (
                Exception
            ) as error:  # storage fails in ways of its own; what is served goes on, and so does following
                refused, self._problem = None, str(error)
            if self._problem and self._problem != before:
                logger.warning("the bundle goes on that was served before: %s", self._problem)

    async def _look(self, pointer: str, refused: tuple[str, str] | None) -> tuple[str, str] | None:
        """Change over where the pointer names another bundle, but not again to one that was refused; which
        one that is.
        """
        uri = await asyncio.to_thread(read_pointer, pointer)
        _, next_ = self._known()
        found = uri, (await asyncio.to_thread(read_manifest, uri, KIND)).fingerprint
        if found[1] == next_.fingerprint:
            self._problem = None
            return None
        if found == refused:
            return refused
        return found if isinstance(await self._change_over(uri), UserError) else None


class Shelved:
    """The bundles that a replica holds, each opened as a backend, and the one that it answers from."""

    def __init__(
        self, shelf: DeploymentHandle, replica: str, opened: Callable[[Edition], Awaitable[Backend]]
    ) -> None:
        self._shelf, self._replica, self._opened = shelf, replica, opened
        self._held: dict[str, Backend] = {}
        self._opening: dict[str, asyncio.Task[Backend]] = {}
        self._answers: Edition | None = None

    async def start(self) -> None:
        """Open what the shelf says, and do as it says from now on."""
        orders = await self._obey()
        await self.of(orders.answer)
        self._answers = orders.answer
        self._obeying = asyncio.create_task(self._keep_obeying())

    def current(self) -> Backend:
        """What to answer from. It stays good for the whole of a request."""
        assert self._answers is not None
        return self._held[self._answers.fingerprint]

    async def of(self, edition: Edition) -> Backend:
        """A certain bundle's backend, which another replica's answer needs."""
        if edition.fingerprint in self._held:
            return self._held[edition.fingerprint]
        return await asyncio.shield(self._open(edition))  # others wait for the same, and may wait for longer

    def _open(self, edition: Edition) -> asyncio.Task[Backend]:
        if edition.fingerprint not in self._opening:
            task = asyncio.create_task(self._opened_as_held(edition))
            task.add_done_callback(
                lambda done: done.cancelled() or done.exception()
            )  # logged already; nobody may wait
            self._opening[edition.fingerprint] = task
        return self._opening[edition.fingerprint]

    async def _opened_as_held(self, edition: Edition) -> Backend:
        try:
            self._held[edition.fingerprint] = backend = await self._opened(edition)
        except Exception as error:
            logger.warning("%s cannot open bundle %s: %s", self._replica, edition.uri, error)
            raise
        finally:
            del self._opening[edition.fingerprint]
        return backend

    async def _obey(self) -> Orders:
        """Ask, and begin what is to be done: a bundle that takes long to open is no reason not to
        ask again."""
        orders: Orders = await self._shelf.ask.remote(self._replica, frozenset(self._held), self._answers)
        for edition in orders.hold:
            if edition.fingerprint not in self._held:
                self._open(edition)
        if orders.answer.fingerprint in self._held:
            self._answers = orders.answer
        wanted = {edition.fingerprint for edition in (*orders.hold, *filter(None, [self._answers]))}
        self._held = {name: backend for name, backend in self._held.items() if name in wanted}
        return orders

    async def _keep_obeying(self) -> None:
        while True:
            await asyncio.sleep(_ASK_S)
            try:
                await self._obey()
            except Exception as error:  # Serve starts a lost shelf again; until then what is held will do
                logger.warning("the shelf of bundles does not answer (%s); %s goes on", error, self._replica)
