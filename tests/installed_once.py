"""Things that are installed once into the user's cache and found there by later runs."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def installed_once(name: str, install: Callable[[Path], None], *, of: list[str]) -> Path:
    """The folder into which `install` has put `name`, made of what `of` says.

    Processes that ask at the same time wait for one another. An install that was cut short is
    thrown away and begun again.
    """
    where = [platform.python_version(), platform.machine(), sys.base_prefix]
    fingerprint = hashlib.sha256("\n".join(of + where).encode()).hexdigest()[:12]
    folder = _cache() / f"{name}-{fingerprint}"
    # Written last: without it the folder is what an interrupted install left.
    complete = folder / "complete"
    with _alone(folder.with_suffix(".lock")):
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            install(folder)
            complete.touch()
    return folder


def make_venv(folder: Path, requirements: Path) -> Path:
    """Make a virtual environment of what `requirements` pins, and nothing else; its Python.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    _pip("--python", python, "install", "--requirement", requirements)
    return python


def install_into(folder: Path, requirements: Path) -> None:
    """Put what `requirements` pins into a folder, for a process that is told of it.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    _pip("install", "--target", folder, "--requirement", requirements)


def _pip(*arguments: str | Path) -> None:
    quietly = ["--quiet", "--no-deps", "--no-compile"]
    subprocess.run([sys.executable, "-m", "pip", *arguments, *quietly], check=True)


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(base) / "jupyter-comfy-lock"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
