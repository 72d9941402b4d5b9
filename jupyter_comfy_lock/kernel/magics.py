"""`%comfy`: each command is one call of the Python API."""

# IPython's decorators and hooks have no types.
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False

from collections.abc import Callable
from pathlib import Path
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.kernel import api
from jupyter_comfy_lock.kernel.task import Task
from jupyter_comfy_lock.kernel.views import Lock, Servers, Status


@magics_class
class ComfyMagics(Magics):
    """The magic, and what its commands do."""

    @magic_arguments()
    @argument("command", nargs="?", default="status", help="servers, lock, release, status or run.")
    @argument("operand", nargs="?", help="Of lock: a ComfyServer's id. Of run: a .json file.")
    @argument("-x", "--exclusive", action="store_true", help="Lock it for this kernel alone.")
    @argument("-h", "--help", action="store_true", help="Show this text.")
    @line_magic
    def comfy(self, line: str) -> Any:
        """Use ComfyServers from this notebook.

        ``%comfy servers`` lists the ComfyServers: how they do, who holds them.
        ``%comfy lock [ID]`` locks one for this kernel; without an id, the best free one.
        ``%comfy release`` releases it.
        ``%comfy status`` tells what this kernel holds and has running.
        ``%comfy run FILE`` runs a workflow in API format, waits and shows its pictures.
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
    return api.lock(args.operand, mode="exclusive" if args.exclusive else "shared")


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
}


def complete(_: Any, event: Any) -> list[str]:
    """Return what may follow `%comfy` on the line: commands, ComfyServers, files."""
    words = event.line[: -len(event.symbol) or None].split() if event.symbol else event.line.split()
    if len(words) <= 1:
        return list(COMMANDS)
    if words[1] == "lock":
        try:
            return [each.comfy_id for each in api.servers()]
        except ComfyLockError:
            return []
    if words[1] == "run":
        return sorted(str(path) for path in Path().glob("*.json"))
    return []


def load(shell: InteractiveShell) -> None:
    """Give `shell` the magic."""
    shell.register_magics(ComfyMagics)
    shell.set_hook("complete_command", complete, str_key="%comfy")
