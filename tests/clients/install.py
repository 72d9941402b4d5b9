"""Install the clients once: programs for ComfyUI that know nothing of this project.

They are kept apart from everything else, since each wants its own versions of the same packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.installed_once import installed_once, make_venv

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
#: The lock file leaves out what the SDK's command line needs: a hundred packages.
NPM = (HERE / "package.json", HERE / "package-lock.json")


@dataclass(frozen=True, kw_only=True)
class Clients:
    """What runs the clients."""

    #: A Python that has those from PyPI.
    python: Path
    node: Path
    #: Where Node finds those from npm: a program must lie in it.
    node_folder: Path


def installed_clients() -> Clients:
    """The clients; installs them when they are not there yet (60 MB, half a minute).

    Raises:
        subprocess.CalledProcessError: pip or npm failed.
    """
    of = [path.read_text() for path in (REQUIREMENTS, *NPM)]
    folder = installed_once("clients", _install, of=of)
    return Clients(
        python=folder / "venv" / "bin" / "python",
        node=_beside_python("node"),
        node_folder=folder,
    )


def _install(folder: Path) -> None:
    make_venv(folder / "venv", REQUIREMENTS)
    for path in NPM:
        shutil.copy(path, folder)
    npm = [_beside_python("npm"), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(npm, cwd=folder, check=True, env={**os.environ, "PATH": _path()})


def _beside_python(program: str) -> Path:
    # Node comes from PyPI: the machine may have none, or an old one.
    found = shutil.which(program, path=_path())
    assert found is not None, program
    return Path(found)


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
