"""Builds the browser's side when a wheel or an sdist is made; pyproject.toml names it."""

from __future__ import annotations

import os
from typing import Any

from hatch_jupyter_builder import npm_builder


def build(target_name: str, version: str, **options: Any) -> None:
    """Run npm in js/, as `hatch_jupyter_builder.npm_builder` does."""
    # Node trusts only the certificates it came with; the machine may know others, such as
    # those of the proxy between it and the package index.
    os.environ.setdefault("NODE_USE_SYSTEM_CA", "1")
    npm_builder(target_name, version, **options)
