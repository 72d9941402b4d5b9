"""What one `pip install` brings."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import jupyter_comfy_lock

BIN = Path(sys.executable).parent


def run(*command: str, tmp_path: Path) -> str:
    """What `command` says where nobody has configured anything."""
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "NO_COLOR": "1",
    }
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    result = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        env={**environment, "PATH": path},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    said = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    assert result.returncode == 0, said
    return said


def test_the_version_is_told_once_and_the_same_everywhere() -> None:
    labextension = Path(sys.prefix, "share/jupyter/labextensions/jupyter-comfy-lock")
    package = json.loads((labextension / "package.json").read_text())
    assert version("jupyter_comfy_lock") == jupyter_comfy_lock.__version__ == package["version"]


def test_the_lab_extension_is_found(tmp_path: Path) -> None:
    said = run("jupyter", "labextension", "list", tmp_path=tmp_path)
    assert re.search(r"jupyter-comfy-lock v\S+ enabled OK", said), said


def test_the_server_extension_is_on_and_can_be_loaded(tmp_path: Path) -> None:
    said = run("jupyter", "server", "extension", "list", tmp_path=tmp_path)
    assert re.search(r"jupyter_comfy_lock \S+ OK", said), said


def test_jupyter_knows_the_command(tmp_path: Path) -> None:
    assert "serve" in run("jupyter", "comfy-lock", "--help", tmp_path=tmp_path)


def imported(file: Path) -> Iterator[str]:
    """The first name of every module that `file` imports by its full name."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


@pytest.mark.complaint(18)
def test_what_the_package_imports_is_what_it_asks_for() -> None:
    asked_for = {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, requires("jupyter_comfy_lock") or [])
        # What is for PostgreSQL or pandas alone is imported only when it is used.
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": each}) for each in ("postgres", "pandas"))
    }
    known = packages_distributions()
    missing = {
        f"{file.name}: {name}"
        for file in Path(jupyter_comfy_lock.__file__).parent.rglob("*.py")
        for name in imported(file)
        if name not in sys.stdlib_module_names
        if name != "jupyter_comfy_lock"
        if asked_for.isdisjoint(map(canonicalize_name, known.get(name, [])))
    }
    assert not missing


def test_the_widget_and_the_notebooks_come_with_it() -> None:
    installed = Path(jupyter_comfy_lock.__file__).parent
    assert (installed / "static" / "widget.js").stat().st_size > 0
    assert (installed / "static" / "widget.css").stat().st_size > 0
    assert (installed / "py.typed").exists()
