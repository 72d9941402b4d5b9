"""`comfy.debug()`, `check()`, `cleanup()` and `selftest()`."""

from jupyter_comfy_lock.kernel.bad_input import WrongType, WrongValue
from jupyter_comfy_lock.kernel.inspect_debug import Debug
from jupyter_comfy_lock.kernel.inspect_views import Cleanup, Findings, SelfTest
from jupyter_comfy_lock.kernel.session import current


def debug() -> Debug:
    """Return all that is known of this kernel, here and in the Jupyter server; no secrets."""
    return current().inspector.debug()


def check() -> Findings:
    """Return what is wrong in the pool, over all kernels, each with what to do next.

    Nothing is changed anywhere. Of other kernels' tasks a kernel is told nothing; the Jupyter
    user sees all: `GET comfy-lock/api/check`.
    """
    return current().inspector.check()


def cleanup(kernel: str | None = None, *, dry_run: bool = False) -> Cleanup:
    """Release and cancel what this kernel has: its place in line, its lock, its tasks.

    `dry_run` says what that would be and does nothing. `kernel`: another one, by its id, its
    notebook, or the first eight characters of its id; also one that is long gone. That is for the
    Jupyter user: for a process that attached with the user's token, not for a notebook's kernel.

    Raises:
        NotYours: it is another kernel, and this one may not; the message says who may.
        BadRequest: nothing is known of that kernel, or several are meant.
    """
    return current().inspector.cleanup(_named(kernel, "a kernel"), dry_run=dry_run)


def selftest(name: str | None = None) -> SelfTest:
    """Try the product's six promises on the running pool; all of them, or the one of that name.

    It uses kernels of its own that leave in the end, takes shared places where they are free, and
    sends a few tiny prompts where the queue is empty. Nothing of anybody's is touched. Ctrl-C
    breaks it off, and leaves nothing either.

    Raises:
        BadRequest: there is no test of that name; the message has those that there are.
    """
    return current().inspector.selftest(_named(name, "a test"))


def _named(name: object, what: str) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str):
        msg = f"the name of {what} is text or None, not {type(name).__name__}"
        raise WrongType(msg)
    if not name:
        msg = f"the name of {what} is not empty; None stands for no name"
        raise WrongValue(msg)
    return name
