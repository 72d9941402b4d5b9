"""Holders: kernel incarnations, and the secrets by which each is known."""

import hashlib
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from jupyter_comfy_lock.domain.desk import Desk
from jupyter_comfy_lock.domain.errors import UnknownHolder
from jupyter_comfy_lock.domain.lock import ComfyId, HolderId


@dataclass(eq=False, slots=True, kw_only=True)
class Holder:
    """One process life of one kernel."""

    holder_id: HolderId
    kernel_id: str
    incarnation: int
    kind: Literal["managed", "attached"]
    #: Path of the notebook where known, else what the kernel calls itself.
    name: str
    #: Made anew by each process that says hello.
    instance: str
    #: Process id of a managed kernel, where its provisioner tells.
    process: int | None
    #: Acts for this holder and nobody else, and is worth nothing once the holder has ended (R10).
    credential: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    #: Stands in the gateway's URL, which other programs and the scripts of ComfyUI's own page are
    #: given, and opens nothing else: no lock can be taken or let go of with it.
    gateway_key: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    #: What ComfyUI's web interface keeps for it.
    desk: Desk = field(default_factory=Desk, repr=False)
    #: The ComfyServer that it said it prefers; "" for none, None if it said nothing.
    pin: ComfyId | None = None
    #: Open event streams.
    streams: int = 0
    #: Monotonic seconds at which the last event stream ended, or the holder began.
    last_stream_s: float = field(default_factory=time.monotonic)
    #: Monotonic seconds at which an attached holder last showed that it runs.
    renewed_s: float = field(default_factory=time.monotonic)

    def to_json(self) -> dict[str, Any]:
        """Return the holder as REST and events show it; without its credential."""
        return {
            "holder_id": self.holder_id,
            "kernel_id": self.kernel_id,
            "incarnation": self.incarnation,
            "kind": self.kind,
            "name": self.name,
        }


class HolderRegistry:
    """The holders of this Jupyter server."""

    def __init__(self) -> None:
        self._by_credential: dict[str, Holder] = {}
        self._by_gateway_key: dict[str, Holder] = {}
        self._by_kernel: dict[str, Holder] = {}
        self._incarnations: dict[str, int] = {}

    def add(
        self,
        kernel_id: str,
        *,
        instance: str,
        kind: Literal["managed", "attached"],
        name: str,
        process: int | None,
    ) -> Holder:
        """Add the next incarnation of a kernel. The one before must have ended."""
        incarnation = self._incarnations.get(kernel_id, 0) + 1
        self._incarnations[kernel_id] = incarnation
        holder = Holder(
            holder_id=HolderId(f"{kernel_id}.{incarnation}"),
            kernel_id=kernel_id,
            incarnation=incarnation,
            kind=kind,
            name=name,
            instance=instance,
            process=process,
        )
        self._by_kernel[kernel_id] = holder
        self._by_credential[_digest(holder.credential)] = holder
        self._by_gateway_key[_digest(holder.gateway_key)] = holder
        return holder

    def remove(self, holder: Holder) -> bool:
        """Forget a holder, credentials first; False if that was done before."""
        if self._by_credential.pop(_digest(holder.credential), None) is None:
            return False
        del self._by_gateway_key[_digest(holder.gateway_key)]
        if self._by_kernel.get(holder.kernel_id) is holder:
            del self._by_kernel[holder.kernel_id]
        return True

    def by_credential(self, credential: str) -> Holder:
        """Return whose credential that is.

        Raises:
            UnknownHolder: nobody's, or not any more.
        """
        return _find(self._by_credential, credential)

    def by_gateway_key(self, key: str) -> Holder:
        """Return whose part of the gateway that opens.

        Raises:
            UnknownHolder: nobody's, or not any more.
        """
        return _find(self._by_gateway_key, key)

    def of_kernel(self, kernel_id: str) -> Holder | None:
        """Return the present incarnation of a kernel."""
        return self._by_kernel.get(kernel_id)

    def by_id(self, holder_id: str) -> Holder | None:
        """Return the holder with that id, if it is there."""
        return next(
            (each for each in self._by_kernel.values() if each.holder_id == holder_id), None
        )

    def has(self, holder_id: HolderId) -> bool:
        """Whether that incarnation is still there."""
        return any(each.holder_id == holder_id for each in self._by_kernel.values())

    def all(self) -> list[Holder]:
        """Return all holders."""
        return list(self._by_kernel.values())


def _find(holders: Mapping[str, Holder], secret: str) -> Holder:
    # Looked up by its hash, so that the time it takes says nothing about the secrets.
    holder = holders.get(_digest(secret))
    if holder is None:
        raise UnknownHolder
    return holder


def _digest(credential: str) -> str:
    return hashlib.sha256(credential.encode()).hexdigest()
