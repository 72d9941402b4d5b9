from __future__ import annotations

import pytest
import pytest_asyncio

from jupyter_comfy_lock.embedded import EmbeddedComfy
from jupyter_comfy_lock.embedded.files import Folders
from tests.embedded.client import client_of
from tests.embedded_trace_nodes import NODES


@pytest.fixture
def folders(tmp_path):
    made = Folders(tmp_path)
    made.create()
    return made


@pytest_asyncio.fixture
async def comfy(tmp_path):
    async with EmbeddedComfy("test", base_directory=tmp_path, nodes=NODES) as server:
        yield server


@pytest_asyncio.fixture
async def client(comfy):
    async with client_of(comfy.url) as made:
        yield made
