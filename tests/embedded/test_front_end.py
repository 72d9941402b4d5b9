from __future__ import annotations

import pytest
import pytest_asyncio
from yarl import URL

from jupyter_comfy_lock.embedded import EmbeddedComfy
from jupyter_comfy_lock.embedded.front_end import installed_front_end
from tests.embedded.client import client_of


@pytest.fixture
def front_end(tmp_path):
    """A folder like that of ComfyUI's web interface, and a file beside it."""
    root = tmp_path / "root"
    (root / "extensions" / "core").mkdir(parents=True)
    (root / "index.html").write_text("<!doctype html><title>ComfyUI</title>")
    (root / "extensions" / "core" / "a.js").write_text("let a")
    (root / "extensions" / "core" / "a.css").write_text("a {}")
    (tmp_path / "secret.js").write_text("let secret")
    return root


@pytest_asyncio.fixture
async def client(tmp_path, front_end):
    base = tmp_path / "base"
    async with (
        EmbeddedComfy("test", base_directory=base, front_end_root=front_end) as comfy,
        client_of(comfy.url) as made,
    ):
        yield made


@pytest.mark.asyncio
async def test_the_page_and_its_files_are_served(client):
    for path in ("/", "/index.html"):
        assert await client.get(path) == (200, b"<!doctype html><title>ComfyUI</title>")
    async with client.session.get(f"{client.url}/extensions/core/a.js") as response:
        assert await response.text() == "let a"
        assert response.content_type.endswith("/javascript")
        # As ComfyUI does: another one may be there after an update.
        assert response.headers["Cache-Control"] == "no-cache"


@pytest.mark.asyncio
async def test_scripts_that_the_page_must_load_are_listed(client):
    assert await client.get("/api/extensions") == (200, ["/extensions/core/a.js"])


@pytest.mark.parametrize(
    "path", ["none.js", "extensions/core", "%2e%2e/secret.js", "..%2Fsecret.js"]
)
@pytest.mark.asyncio
async def test_nothing_else_is_served(client, path):
    async with client.session.get(URL(f"{client.url}/{path}", encoded=True)) as response:
        assert response.status == 404


def test_the_installed_package_is_found():
    found = installed_front_end()
    assert found is not None
    assert "<title>ComfyUI</title>" in (found / "index.html").read_text(encoding="utf-8")
