from __future__ import annotations

import pytest

from tests.comfy_servers import comfy_servers


@pytest.fixture(scope="session")
def lasting_url(comfy_kind, request):
    """The URL of a real or given server; None if a new embedded one is to be used each time."""
    if comfy_kind == "embedded":
        yield None
    elif comfy_kind == "real":
        yield request.getfixturevalue("comfy_pool")[0]["url"]
    else:
        with comfy_servers(1, comfy_kind) as urls:
            yield urls[0]
