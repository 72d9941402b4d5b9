"""The page of ComfyUI's own web interface, shown without the Jupyter server's origin (R10).

Its scripts are a ComfyServer's, and those of any custom node installed there. With the origin of
the Jupyter server they could use the Jupyter user's cookies, and run code as that user. So the
page is in a sandbox without `allow-same-origin`: a browser gives it an origin of its own that is
like no other ("null"), sends no cookies for it, and shows it no answer that does not say
`Access-Control-Allow-Origin: null`. The gateway's answers to a known key say so, and
nothing else in a Jupyter server does.
"""

from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_comfy_lock.server.gateway.call import GatewayCall
from jupyter_comfy_lock.server.relay import copy_answer, copy_body

if TYPE_CHECKING:
    import aiohttp

#: Without `allow-same-origin` and `allow-top-navigation`. What the page opens is in the same
#: sandbox, and only the Jupyter server's own pages may have it in a frame.
_POLICY = (
    "sandbox allow-scripts allow-forms allow-modals allow-popups allow-downloads; "
    "frame-ancestors 'self'"
)
_SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
#: Goes before ComfyUI's own page. To a browser, a second doctype, html and head are none.
_BEFORE = f"<!doctype html>\n<script>\n{_SCRIPT}</script>\n"


class Page(GatewayCall):
    """Serves the page."""

    async def page(self) -> None:
        """Serve the page, with a script of ours before all others; at one address only.

        The page takes its own address for ComfyUI's, up to the last slash.
        """
        key = self.request.path.rpartition("/comfy-lock/gateway/")[2]
        if "/" not in key:
            self.set_status(HTTPStatus.FOUND)
            query = f"?{self.request.query}" if self.request.query else ""
            self.set_header("Location", f"{key}/{query}")
            return
        # Nothing of the browser's: it must come whole and as it is, to have something before it.
        async with self.upstream().open("GET", f"/{self.raw_path}") as response:
            if _is_page(response):
                self.set_header("Content-Type", "text/html; charset=utf-8")
                self.set_header("Content-Security-Policy", _POLICY)
                self.set_header("Cache-Control", "no-cache")
                self.write(_BEFORE)
                await copy_body(response, self)
            else:
                await copy_answer(response, self)


def _is_page(response: "aiohttp.ClientResponse") -> bool:
    return (
        response.status == HTTPStatus.OK
        and response.content_type == "text/html"
        and "Content-Encoding" not in response.headers
    )
