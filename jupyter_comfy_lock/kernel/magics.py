"""`%comfy`: each command is one call of the Python API."""

# IPython's decorators and hooks have no types.
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.kernel import api
from jupyter_comfy_lock.kernel.session import current
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.views import Comfy, Lock, Servers, Status

#: What `--wait` takes besides seconds.
FOREVER = "forever"
#: What `pin` takes besides ids.
NO_PIN = "none"


@magics_class
class ComfyMagics(Magics):
    """The magic, and what its commands do."""

    @magic_arguments()
    @argument(
        "command", nargs="?", default="status", help="servers, lock, release, status, run or pin."
    )
    @argument("operand", nargs="?", help="A ComfyServer's id; of run: a .json file.")
    @argument("-x", "--exclusive", action="store_true", help="Lock it for this kernel alone.")
    @argument("--wait", default="0", help='Seconds to wait in line, or "forever".')
    @argument("--label", action="append", default=[], help="Lock one that has it; may be repeated.")
    @argument("-h", "--help", action="store_true", help="Show this text.")
    @line_magic
    def comfy(self, line: str) -> Any:
        """Use ComfyServers from this notebook.

        ``%comfy servers`` lists the ComfyServers: how they do, who holds them.
        ``%comfy lock [ID]`` locks one for this kernel; without an id, the best free one.
        ``%comfy lock [ID] --wait SECONDS`` waits in line for it; ``--wait forever``, too.
        ``%comfy lock --label L`` locks the best free one that has the label.
        ``%comfy release`` releases it.
        ``%comfy pin ID`` has this notebook prefer one; ``%comfy pin none``, none.
        ``%comfy status`` tells what this kernel holds and has running.
        ``%comfy run FILE`` runs a workflow of any format, waits and shows its pictures.
        """
        args = parse_argstring(self.comfy, line)
        if args.help:
            print(self.comfy.__doc__)  # noqa: T201 - a magic talks to its user
            return None
        command = COMMANDS.get(args.command)
        if command is None:
            msg = f"%comfy has no command {args.command!r}. Known: {', '.join(COMMANDS)}."
            raise UsageError(msg)
        return command(args)


def _servers(_: Any) -> Servers:
    return api.servers()


def _lock(args: Any) -> Lock:
    try:
        return api.lock(
            args.operand,
            mode="exclusive" if args.exclusive else None,
            wait=_seconds(args.wait),
            labels=args.label,
        )
    except (TypeError, ValueError) as error:
        raise UsageError(str(error)) from error


def _seconds(text: str) -> float | None:
    if text == FOREVER:
        return None
    try:
        return float(text)
    except ValueError:
        msg = f'--wait needs seconds or "{FOREVER}", not {text!r}'
        raise UsageError(msg) from None


def _pin(args: Any) -> None:
    if not args.operand:
        msg = f"%comfy pin needs the id of a ComfyServer, or {NO_PIN!r}: %comfy pin gpu-1"
        raise UsageError(msg)
    api.pin(None if args.operand == NO_PIN else args.operand)


def _release(_: Any) -> None:
    released = api.release()
    print(f"Released {released}." if released else "No lock to release.")  # noqa: T201 - as above


def _status(_: Any) -> Status:
    return api.status()


def _run(args: Any) -> Task:
    if not args.operand:
        msg = "%comfy run needs the path of a workflow: %comfy run workflow_api.json"
        raise UsageError(msg)
    # IPython leaves the quotes around a name with spaces.
    task = api.submit(Path(args.operand.strip("'\""))).wait()
    display(*task.images)
    return task


COMMANDS: dict[str, Callable[[Any], Any]] = {
    "servers": _servers,
    "lock": _lock,
    "release": _release,
    "status": _status,
    "run": _run,
    "pin": _pin,
}


def complete(_: Any, event: Any) -> list[str]:
    """Return what may follow `%comfy` on the line: commands, ComfyServers, files."""
    words = event.line[: -len(event.symbol) or None].split() if event.symbol else event.line.split()
    if len(words) <= 1:
        return list(COMMANDS)
    if words[1] == "lock":
        return _complete_lock(words[-1], event.symbol)
    if words[1] == "pin":
        return [*(each.comfy_id for each in _pool()), NO_PIN]
    if words[1] == "run":
        return sorted(str(path) for path in Path().glob("*.json"))
    return []


def _complete_lock(before: str, symbol: str) -> list[str]:
    if symbol.startswith("-"):
        return ["--exclusive", "--label", "--wait"]
    if before == "--wait":
        return [FOREVER]
    if before == "--label":
        return sorted({label for each in _pool() for label in each.labels})
    return [each.comfy_id for each in _pool()]


def _pool() -> Sequence[Comfy]:
    try:
        return current().servers()
    except ComfyLockError:
        return ()


def load(shell: InteractiveShell) -> None:
    """Give `shell` the magic."""
    shell.register_magics(ComfyMagics)
    shell.set_hook("complete_command", complete, str_key="%comfy")
