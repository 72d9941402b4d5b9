"""The demo in JupyterLab."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from jupyter_comfy_lock.demo.stage import Stage, StageError, process, stage

FIRST_NOTEBOOK = "01_first_light.ipynb"


def run_lab(directory: Path, port: int, *, browser: bool) -> int:
    """Serve the notebooks in JupyterLab until it is stopped; return its exit code.

    Raises:
        StageError: it cannot be started.
    """
    if find_spec("jupyterlab") is None:
        msg = "JupyterLab is not installed here: pip install 'jupyter_comfy_lock[lab]'"
        raise StageError(msg)
    console = Console(stderr=True)
    with stage(directory, ("gpu-1", "gpu-2")) as here:
        _copy_notebooks(here)
        here.configure(port, FIRST_NOTEBOOK)
        for comfy in here.pool:
            console.print(
                f"[bold]{comfy['id']}[/] embedded ComfyUI-compatible server {comfy['url']}"
            )
        console.print(f"Notebooks and pictures are kept in {here.directory}. Ctrl-C ends the demo.")
        options = [] if browser else ["--no-browser"]
        with process("jupyterlab", *options, env=here.environment(), cwd=here.notebooks) as lab:
            while True:
                try:
                    return lab.wait()
                except KeyboardInterrupt:
                    # Jupyter, in the same terminal, got it too and asks whether it is meant.
                    continue


def notebooks_folder() -> Path:
    """Return where the example notebooks are: in the package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    for folder in (package / "notebooks", package.parent / "notebooks"):
        if (folder / FIRST_NOTEBOOK).exists():
            return folder
    msg = f"The example notebooks are missing from {package}; install the package again."
    raise StageError(msg)


def _copy_notebooks(here: Stage) -> None:
    for notebook in notebooks_folder().glob("*.ipynb"):
        target = here.notebooks / notebook.name
        # What somebody has changed is theirs.
        if not target.exists():
            shutil.copy(notebook, target)
