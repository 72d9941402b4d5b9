"""`jupyter comfy-lock`: the command line."""

import errno
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from jupyter_comfy_lock import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="jupyter comfy-lock")
def main() -> None:
    """Give each notebook kernel a ComfyUI server of its own."""


@main.command()
@click.option("--name", default="comfy", show_default=True, help="What it calls itself.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=0, show_default=True, type=click.IntRange(0, 65535), help="0: any free one."
)
@click.option(
    "--base-directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where input, output and temp are kept; a temporary folder if left out.",
)
@click.option(
    "--nodes",
    "nodes_modules",
    multiple=True,
    metavar="MODULE",
    help="Module with more nodes, in a list NODES. May be given several times.",
)
@click.option(
    "--front-end-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with ComfyUI's web interface; that of the package comfyui-frontend-package, "
    "where it is installed, if left out.",
)
def serve(
    name: str,
    host: str,
    port: int,
    base_directory: Path | None,
    nodes_modules: tuple[str, ...],
    front_end_root: Path | None,
) -> None:
    """Run a small ComfyUI-compatible server that needs no GPU and no models.

    Prints its name and URL when it answers, and serves until Ctrl-C.
    """
    from jupyter_comfy_lock.embedded.front_end import installed_front_end
    from jupyter_comfy_lock.embedded.server import CannotListen
    from jupyter_comfy_lock.embedded.server import serve as serve_embedded

    front_end_root = front_end_root or installed_front_end()
    try:
        serve_embedded(name, host, port, base_directory, nodes_modules, front_end_root)
    except CannotListen as error:
        taken = error.errno == errno.EADDRINUSE
        hint = "; choose another with --port, or 0 for any free one." if taken else "."
        msg = f"{error.strerror}{hint}"
        raise click.ClickException(msg) from None


@main.command()
@click.option(
    "--check",
    is_flag=True,
    help="No browser: two notebooks use two servers at once; says whether all is as promised.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("comfy-lock-demo"),
    show_default=True,
    help="Where the notebooks and everything else of the demo are kept.",
)
@click.option(
    "--port",
    default=8888,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port of JupyterLab; the next free one if it is taken.",
)
@click.option("--no-browser", is_flag=True, help="Start JupyterLab without opening it.")
@click.pass_context
def demo(
    context: click.Context, *, check: bool, directory: Path, port: int, no_browser: bool
) -> None:
    """Try it: two embedded servers, and JupyterLab with notebooks that use them."""
    from jupyter_comfy_lock.demo.check import run_check
    from jupyter_comfy_lock.demo.lab import run_lab
    from jupyter_comfy_lock.demo.stage import StageError, orderly_exit

    for name in ("directory", "port"):
        if check and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            msg = f"--{name} is for JupyterLab; --check uses a temporary folder and a free port."
            raise click.UsageError(msg)
    try:
        with orderly_exit():
            sys.exit(run_check() if check else run_lab(directory, port, browser=not no_browser))
    except StageError as error:
        raise click.ClickException(str(error)) from None


if __name__ == "__main__":
    main()
