"""The commands of `%comfy`, each declared once and each one call of the Python API."""

# IPython's decorators have no types.
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False

from typing import Any

from IPython.core.magic_arguments import argument, magic_arguments

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.domain.sweep import MAX_CELLS
from jupyter_comfy_lock.kernel.magics.declared import (
    FOREVER,
    NONE,
    Axes,
    Commands,
    Values,
    help_text,
    or_none,
    seconds,
    value,
    whole_number,
)

FILE = argument(
    "workflow",
    metavar="FILE",
    type=value,
    help="A workflow of any format: .json, or a .png or .webp of ComfyUI's; or $name.",
)
VALUES = argument(
    "values",
    metavar="NAME=VALUE",
    nargs="*",
    action=Values,
    help="A value to set first, as Workflow.set: JSON where it is, text otherwise; or $name.",
)
TIMEOUT = argument(
    "--timeout", metavar="SECONDS", type=seconds, help="Seconds to wait for it; the task goes on."
)


@magic_arguments("comfy servers")
def servers(_: Any) -> Any:
    """List the ComfyServers: how they do, who holds them, who waits."""
    return comfy.servers()


@magic_arguments("comfy lock")
@argument("comfy_id", metavar="ID", nargs="?", help="The ComfyServer; without: the best free one.")
@argument(
    "-x", "--exclusive", dest="mode", action="store_const", const="exclusive", help="With nobody."
)
@argument(
    "--shared", dest="mode", action="store_const", const="shared", help="With others (the default)."
)
@argument(
    "--wait",
    metavar="SECONDS",
    type=seconds,
    default=0,
    help=f'Seconds to wait in line for it, or "{FOREVER}"; without: it is refused if taken.',
)
@argument(
    "--label",
    metavar="LABEL",
    dest="labels",
    action="append",
    default=[],
    help="Take one that has this label; can be given several times.",
)
def lock(args: Any) -> Any:
    """Lock a ComfyServer for this notebook."""
    return comfy.lock(args.comfy_id, mode=args.mode, wait=args.wait, labels=args.labels)


@magic_arguments("comfy release")
def release(_: Any) -> Any:
    """Release the lock."""
    released = comfy.release()
    print(f"Released {released}." if released else "No lock to release.")  # noqa: T201 - for users
    return released


@magic_arguments("comfy pin")
@argument("comfy_id", metavar="ID", type=or_none(str), help=f'The ComfyServer, or "{NONE}".')
def pin(args: Any) -> Any:
    """Have this notebook prefer a ComfyServer."""
    return comfy.pin(args.comfy_id)


@magic_arguments("comfy status")
def status(_: Any) -> Any:
    """Tell what this notebook holds and has running; %comfy alone does the same."""
    return comfy.status()


@magic_arguments("comfy tasks")
def tasks(_: Any) -> Any:
    """List this notebook's tasks, newest first."""
    return comfy.tasks()


@magic_arguments("comfy cancel")
@argument("tasks", metavar="TASK", nargs="*", help="A task's id, or a beginning of it.")
@argument("--all", action="store_true", help="All of this notebook's that have not ended.")
def cancel(args: Any) -> Any:
    """Cancel tasks of this notebook, nobody else's."""
    return comfy.cancel(*map(str, args.tasks), all=args.all)


@magic_arguments("comfy run")
@FILE
@VALUES
@TIMEOUT
def run(args: Any) -> Any:
    """Run a workflow and wait for its pictures."""
    return comfy.run(args.workflow, timeout=args.timeout, **args.values)


@magic_arguments("comfy submit")
@FILE
@VALUES
def submit(args: Any) -> Any:
    """Send a workflow and return its task at once."""
    return comfy.submit(args.workflow, **args.values)


@magic_arguments("comfy sweep")
@FILE
@argument(
    "axes",
    metavar="NAME=VALUES",
    nargs="+",
    action=Axes,
    help="What to go through: 0..7 (whole numbers), 0..1..0.25 (by steps), 4,7,11 or '[…]'.",
)
@argument("--in-flight", metavar="N", type=whole_number, default=4, help="So many at a time (4).")
@argument(
    "--max-cells",
    metavar="N",
    type=whole_number,
    default=MAX_CELLS,
    help=f"So many at most ({MAX_CELLS}), so that a slip of the finger makes no millions.",
)
def sweep(args: Any) -> Any:
    """Run a workflow with all combinations of values, on one contact sheet."""
    return comfy.sweep(
        args.workflow, in_flight=args.in_flight, max_cells=args.max_cells, **args.axes
    )


@magic_arguments("comfy debug")
def debug(_: Any) -> Any:
    """Tell all that is known of this notebook's lock, tasks and connections."""
    return comfy.debug()


@magic_arguments("comfy check")
def check(_: Any) -> Any:
    """Look for what is wrong: with the ComfyServers, locks and tasks."""
    return comfy.check()


@magic_arguments("comfy cleanup")
@argument("kernel", metavar="KERNEL", nargs="?", help="Only what this kernel left behind.")
@argument("--dry-run", action="store_true", help="Only say what would be done.")
def cleanup(args: Any) -> Any:
    """Clean up what kernels left behind."""
    return comfy.cleanup(args.kernel, dry_run=args.dry_run)


@magic_arguments("comfy selftest")
@argument("name", metavar="NAME", nargs="?", help="Only the test of this name.")
def selftest(args: Any) -> Any:
    """Try out that locks, tasks and files work here."""
    return comfy.selftest(args.name)


@magic_arguments("comfy url")
@argument("--show", action="store_true", help="Show the key in it too: it is a password.")
@argument(
    "--listen",
    metavar="PORT",
    nargs="?",
    type=or_none(whole_number),
    const=0,
    default=False,
    help=f'Open a port that needs no key, any free one if none is named; "{NONE}" closes it.',
)
def url(args: Any) -> Any:
    """Give the URL of this notebook's gateway, for any other ComfyUI client."""
    if args.listen is not False:
        return comfy.listen(args.listen)
    return str(comfy.url) if args.show else comfy.url


@magic_arguments("comfy help")
@argument("command", metavar="COMMAND", nargs="?", help="The command to tell about.")
def help(args: Any) -> Any:
    """List the commands, or tell what one takes."""
    if args.command is None:
        return COMMANDS
    print(help_text(COMMANDS.find(args.command)))  # noqa: T201 - for users
    return None


COMMANDS = Commands(
    "%comfy",
    (
        *(servers, lock, release, pin, status, tasks, cancel),
        *(run, submit, sweep, debug, check, cleanup, selftest, url, help),
    ),
)
