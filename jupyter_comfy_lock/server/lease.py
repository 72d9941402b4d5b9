"""The lease of this Jupyter server: for how long what it was granted may be trusted (R7)."""

import asyncio
from collections.abc import Callable, Collection
from logging import Logger
from typing import TYPE_CHECKING

from jupyter_comfy_lock.domain.config import LeasePolicy
from jupyter_comfy_lock.domain.lock import Lock, LockId
from jupyter_comfy_lock.domain.outcome import Expired, LeaseLost

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from jupyter_comfy_lock.store.nodes import NodeStore


class NodeLease:
    """Renewed for all managed and attached holders at once.

    The deadline is counted on a clock of this process from before a renewal is sent, and ends
    before the others give this node up.
    """

    def __init__(
        self, store: "NodeStore", policy: LeasePolicy, log: Logger, clock_s: Callable[[], float]
    ) -> None:
        self._store = store
        self._policy = policy
        self._log = log
        self._clock_s = clock_s
        self._deadline_s = float("-inf")
        self._renewing = asyncio.Lock()
        #: "" until the store was there for the first time.
        self.node_id = ""

    @property
    def fresh(self) -> bool:
        """Whether what this node was granted is surely still its own."""
        return self._clock_s() < self._deadline_s

    @property
    def left_s(self) -> float:
        """Seconds for which what this node was granted is surely still its own; 0 when over."""
        return max(0.0, self._deadline_s - self._clock_s())

    async def join(self) -> None:
        """Become a node, or another one when this one was given up.

        Raises:
            StoreUnavailable: it did not.
        """
        before_s = self._clock_s()
        self.node_id = await self._store.join()
        self._hold_from(before_s)

    async def renew(self, known: Collection[Lock]) -> frozenset[LockId]:
        """Renew the lease; return the locks that rest on it. None do when it had been given up.

        Those are, as far as is known, the `known` ones.

        Raises:
            StoreUnavailable: it was not renewed.
        """
        async with self._renewing:
            if not self.node_id:
                await self.join()
            before_s = self._clock_s()
            try:
                kept = await self._store.renew(self.node_id, known)
            except LeaseLost:
                self._deadline_s = float("-inf")
                self._log.error("This Jupyter server's lease ran out: all its locks are gone")
                await self.join()
                return frozenset()
            self._hold_from(before_s)
            return kept

    async def expire(self) -> Expired:
        """End what other nodes left that are dead."""
        return await self._store.expire(self.node_id)

    async def leave(self) -> None:
        """Stop being a node."""
        self._deadline_s = float("-inf")
        await self._store.leave(self.node_id)

    def leave_now(self, connection: "Connection") -> None:
        """Do as `leave` does, in a transaction of the caller's, when there is no event loop."""
        self._deadline_s = float("-inf")
        self._store.leave_now(connection, self.node_id)

    def _hold_from(self, before_s: float) -> None:
        self._deadline_s = before_s + self._policy.ttl_s - self._policy.margin_s
