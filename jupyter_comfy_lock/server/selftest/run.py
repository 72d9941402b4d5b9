"""Does the trials, one after the other, and says what came of each."""

import asyncio
import time
from collections.abc import AsyncGenerator
from logging import Logger
from typing import Any

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.domain.selftest import Trial, Verdict, wanted
from jupyter_comfy_lock.server.ports import Doors
from jupyter_comfy_lock.server.selftest.actor import Broken, CannotTry
from jupyter_comfy_lock.server.selftest.stage import stage
from jupyter_comfy_lock.server.selftest.trials import DO
from jupyter_comfy_lock.server.services import Services

#: Seconds after which a trial has failed.
_WITHIN_S = 45.0


class SelfTests:
    """One at a time, so that they do not take each other's places."""

    def __init__(self, doors: Doors, log: Logger) -> None:
        self._doors = doors
        self._log = log
        self._one = asyncio.Lock()

    async def run(self, services: Services, name: str | None) -> AsyncGenerator[Trial, None]:
        """Yield what came of each trial, or of the one that is named.

        Raises:
            BadRequest: there is none of that name.
        """
        names = wanted(name)
        async with self._one:
            # It takes a while to import, and who starts Jupyter should not wait for it.
            import aiohttp  # noqa: PLC0415

            timeout = aiohttp.ClientTimeout(total=None, connect=_WITHIN_S)
            with self._doors.open() as base:
                async with aiohttp.ClientSession(
                    timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()
                ) as http:
                    for each in names:
                        yield await self._try(services, http, base, each)

    async def _try(self, services: Services, http: Any, base: str, name: str) -> Trial:
        began_s = time.monotonic()
        try:
            async with stage(services, http, base) as where, asyncio.timeout(_WITHIN_S):
                verdict, why = Verdict.PASSED, await DO[name](where)
        except CannotTry as error:
            verdict, why = Verdict.SKIPPED, str(error)
        except Broken as error:
            verdict, why = Verdict.FAILED, str(error)
        except TimeoutError:
            verdict, why = Verdict.FAILED, f"it was not done after {_WITHIN_S:.0f} s"
        except ComfyLockError as error:
            verdict, why = Verdict.FAILED, error.message
        except Exception as error:  # noqa: BLE001 - logged; what breaks it is its finding
            self._log.exception("The trial %s of the self-test broke", name)
            verdict, why = Verdict.FAILED, f"it broke: {type(error).__name__}: {error}"
        self._log.info("Self-test, %s: %s, %s", name, verdict, why)
        return Trial(name=name, verdict=verdict, why=why, seconds=time.monotonic() - began_s)
