"""Looks into what goes on, in the name of this kernel."""

from collections.abc import Callable

from jupyter_comfy_lock.domain.errors import NotYours
from jupyter_comfy_lock.kernel.held import HeldLock
from jupyter_comfy_lock.kernel.inspect_debug import Debug, Here
from jupyter_comfy_lock.kernel.inspect_views import Cleanup, Findings, SelfTest
from jupyter_comfy_lock.kernel.link import Link

#: Seconds in which an event stream that is being opened mostly is open.
_OPENS_IN_S = 1.0


class Inspector:
    """Asks the Jupyter server, and sets what this kernel knows beside it."""

    def __init__(self, link: Link, held: HeldLock, *, live: Callable[[float], bool]) -> None:
        self._link = link
        self._held = held
        self._live = live

    def debug(self) -> Debug:
        """Return how this kernel stands, by the Jupyter server's word and by its own."""
        json = self._link.call(self._link.client.debug)
        lock = self._held.lock
        here = Here(
            holder_id=self._link.hello()["holder"]["holder_id"],
            lock=(lock["comfy_id"], lock["fence"]) if lock else None,
            live=self._live(_OPENS_IN_S),
        )
        return Debug(json, here)

    def check(self) -> Findings:
        """Return what is wrong in the pool."""
        return Findings.from_json(self._link.call(self._link.client.check))

    def cleanup(self, kernel: str | None, *, dry_run: bool) -> Cleanup:
        """Release and cancel what this kernel has, or another one if that may be."""
        wish = {"kernel": kernel, "dry_run": dry_run}
        try:
            made = Cleanup.from_json(
                self._link.call(lambda me: self._link.client.cleanup(me, wish))
            )
        except NotYours:
            # The user's token is the user's power, where a process was given it.
            if self._link.place.kind != "attached":
                raise
            return Cleanup.from_json(self._link.client.cleanup_as_user(wish))
        if any((each.action, each.result) == ("release", "done") for each in made):
            self._held.let_go(None)
        return made

    def selftest(self, name: str | None) -> SelfTest:
        """Try the promises on the running pool."""
        trials = self._link.call(lambda me: self._link.client.selftest(me, name))
        return SelfTest.from_json(trials)
