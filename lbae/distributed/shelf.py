"""Which bundle a service answers from: one deployment loads bundles, the replicas that answer take them from it.

Every replica asks the shelf once a second which bundles to hold and from which of them to answer. A new bundle is answered
from once all that ask hold it, and the one before it is held until the requests that use it have ended.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import ray
from ray.serve.handle import DeploymentHandle

from lbae.core.bundle import Bundle
from lbae.errors import LbaeError, UserError
from lbae.io.bundle import load_bundle, read_pointer
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
    """What the service answers from, what it changes over to, and why it did not take up what it was told to."""

    current: Edition
    next: Edition
    problem: str | None


class Shelf:
    """Keeps bundles in the object store, from where the replicas of a node share their large matrices.

    ``uri`` is a bundle's or, to ``follow`` it, that of a file that holds a bundle's URI.
    """

    def __init__(self, uri: str, follow: bool, keep_s: float) -> None:
        self._pointer, self._keep_s = uri if follow else None, keep_s
        self._bundles: dict[str, ray.ObjectRef] = {}
        self._retired: dict[Edition, float] = {}
        self._asked: dict[str, tuple[float, frozenset[str]]] = {}
        self._loading = asyncio.Lock()
        self._problem: str | None = None
        self._following: asyncio.Task[None] | None = None
        first = read_pointer(uri) if follow else uri
        bundle = load_bundle(first, "cpu")
        self._image_shape = bundle.codec.config.image_shape
        self._current = self._next = self._put(0, first, bundle)

    def _put(self, number: int, uri: str, bundle: Bundle) -> Edition:
        if bundle.fingerprint not in self._bundles:
            self._bundles[bundle.fingerprint] = ray.put(bundle)
        return Edition(number, uri, bundle.fingerprint)

    async def swap(self, uri: str) -> Edition | LbaeError:
        """Let all replicas change over to the bundle at a URI. Errors are returned: if raised, Serve would log them."""
        if self._pointer:
            return UserError(f"this service follows {self._pointer}; write the URI of the bundle into that file")
        return await self._change_over(uri)

    async def _change_over(self, uri: str, number: int | None = None) -> Edition | LbaeError:
        async with self._loading:
            try:
                bundle = await asyncio.to_thread(load_bundle, uri, "cpu")
                if bundle.codec.config.image_shape != self._image_shape:
                    raise UserError(
                        f"bundle {uri} makes images of {bundle.codec.config.image_shape} (height, width, channels); allowed:"
                        f" {self._image_shape}, as those of the bundle that this service started with"
                    )
            except (LbaeError, OSError) as error:
                self._problem = str(error)
                return error if isinstance(error, LbaeError) else LbaeError(str(error))
            self._problem = None
            if bundle.fingerprint != self._next.fingerprint:
                self._next = self._put(self._next.number + 1 if number is None else number, uri, bundle)
            return self._next

    async def ask(self, replica: str, held: frozenset[str], answering: Edition | None) -> Orders:
        """Orders for a replica that holds the bundles of these fingerprints."""
        if self._pointer and not self._following:
            self._following = asyncio.create_task(self._follow(self._pointer, self._next.uri))
        if answering and answering.number > self._next.number and not self._pointer:
            # This shelf was started again, and knows nothing of bundles after the first.
            adopted = await self._change_over(answering.uri, answering.number)
            if isinstance(adopted, LbaeError):
                raise adopted
            self._current = adopted
        now = time.monotonic()
        self._asked[replica] = now, held
        self._asked = {name: (when, what) for name, (when, what) in self._asked.items() if now - when < _GONE_S}
        if self._next != self._current and all(self._next.fingerprint in what for _, what in self._asked.values()):
            self._retired[self._current] = now
            self._current = self._next
        self._retired = {edition: since for edition, since in self._retired.items() if now - since < self._keep_s}
        hold = {edition.fingerprint: edition for edition in (*self._retired, self._current, self._next)}
        self._bundles = {name: bundle for name, bundle in self._bundles.items() if name in hold}
        return Orders(tuple(hold.values()), self._current)

    async def take(self, edition: Edition) -> list[ray.ObjectRef]:
        """A bundle, by reference: a bare reference would be replaced by what it refers to."""
        if edition.fingerprint not in self._bundles:
            bundle = await asyncio.to_thread(load_bundle, edition.uri, "cpu")
            if bundle.fingerprint != edition.fingerprint:
                raise LbaeError(f"{edition.uri} holds another bundle now, {bundle.fingerprint}, than {edition.fingerprint}")
            self._put(edition.number, edition.uri, bundle)
        return [self._bundles[edition.fingerprint]]

    def state(self) -> State:
        """For who watches the service."""
        return State(self._current, self._next, self._problem)

    async def _follow(self, pointer: str, seen: str) -> None:
        while True:
            await asyncio.sleep(_AGAIN_S if self._problem else _ASK_S)
            try:
                found = await asyncio.to_thread(read_pointer, pointer)
            except (LbaeError, OSError) as error:
                self._problem = str(error)
                continue
            if found != seen or self._problem:
                seen, before = found, self._problem
                await self._change_over(found)
                if self._problem and self._problem != before:
                    logger.warning("the bundle goes on that was served before: %s", self._problem)


class Shelved:
    """The bundles that a replica holds, each opened as a backend, and the one that it answers from."""

    def __init__(self, shelf: DeploymentHandle, replica: str, opened: Callable[[Edition], Awaitable[Backend]]) -> None:
        self._shelf, self._replica, self._opened = shelf, replica, opened
        self._held: dict[str, Backend] = {}
        self._opening = asyncio.Lock()
        self._answers: Edition | None = None

    async def start(self) -> None:
        """Open what the shelf says, and do as it says from now on."""
        await self._obey()
        self._obeying = asyncio.create_task(self._keep_obeying())

    def current(self) -> Backend:
        """What to answer from. It stays good for the whole of a request."""
        assert self._answers is not None
        return self._held[self._answers.fingerprint]

    async def of(self, edition: Edition) -> Backend:
        """A certain bundle's backend, which another replica's answer needs."""
        if edition.fingerprint not in self._held:
            async with self._opening:
                if edition.fingerprint not in self._held:  # the one before in line may have wanted the same
                    self._held[edition.fingerprint] = await self._opened(edition)
        return self._held[edition.fingerprint]

    async def _obey(self) -> None:
        orders: Orders = await self._shelf.ask.remote(self._replica, frozenset(self._held), self._answers)
        for edition in orders.hold:
            await self.of(edition)
        self._answers = orders.answer
        wanted = {edition.fingerprint for edition in orders.hold}
        self._held = {name: backend for name, backend in self._held.items() if name in wanted}

    async def _keep_obeying(self) -> None:
        while True:
            await asyncio.sleep(_ASK_S)
            try:
                await self._obey()
            except Exception as error:  # Serve starts a lost shelf again; until then what is held will do
                logger.warning("the shelf of bundles does not answer (%s); %s goes on", error, self._replica)
