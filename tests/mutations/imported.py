"""A pytest plugin: the package under test is the copy with the planted fault."""

import os
from pathlib import Path

import pytest

import jupyter_comfy_lock
from tests.mutations.gate import WHERE


def pytest_configure() -> None:
    """End at once, and not with the code of a test that failed, where it is another one."""
    found = Path(jupyter_comfy_lock.__file__).parents[1]
    if found != Path(os.environ[WHERE]):
        pytest.exit(f"the package is imported from {found}", returncode=9)
