"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import jupyter_comfy_lock
from tests.comfy_servers import comfy_servers, default_kind, kinds_under_test

pytest_plugins = ["pytest_jupyter.jupyter_server", "tests.postgres"]


# Other tests run beside these: how long an example takes says nothing about the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_configure() -> None:
    """Hear Ctrl-C even where a shell started the tests in its background.

    Such a process ignores it, and so does all that it starts: kernels could not be interrupted.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> list[str]:
    """Which package is tested, and on what."""
    return [
        f"package under test: {Path(jupyter_comfy_lock.__file__).parent}",
        f"ComfyUI servers for end-to-end tests: {', '.join(kinds_under_test())}",
    ]


@pytest.fixture(scope="session", params=kinds_under_test())
def comfy_kind(request: pytest.FixtureRequest) -> str:
    """The kind of ComfyUI server: a test that uses it runs once for each kind under test."""
    return str(request.param)


@pytest.fixture(scope="session")
def comfy_pool(comfy_kind: str) -> Iterator[list[dict[str, str]]]:
    """Two ComfyUI servers of each kind under test, as the pool setting names them."""
    with comfy_servers(2, comfy_kind) as urls:
        yield [{"id": f"gpu-{n}", "url": url} for n, url in enumerate(urls, start=1)]


@pytest.fixture(scope="session")
def embedded_pool() -> Iterator[list[dict[str, str]]]:
    """Two embedded servers, for what is the same whatever ComfyUI is behind it."""
    with comfy_servers(2, "embedded") as urls:
        yield [{"id": f"gpu-{n}", "url": url} for n, url in enumerate(urls, start=1)]


@pytest.fixture(scope="session")
def comfy_urls() -> Iterator[list[str]]:
    """The URLs of two ComfyUI servers of the one kind that the environment asks for."""
    with comfy_servers(2, default_kind()) as urls:
        yield urls
