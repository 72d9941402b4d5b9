"""Routes about the server itself: what it is, what it has, what it looks like."""

from __future__ import annotations

import html
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlencode

from aiohttp import web

from jupyter_comfy_lock.embedded.app_keys import STATE
from jupyter_comfy_lock.embedded.nodes.spec import object_info

_MODEL_FOLDERS = ("checkpoints", "loras", "vae", "text_encoders", "diffusion_models", "embeddings")
_PICTURES_SHOWN = 12


def routes() -> list[web.RouteDef]:
    """Return the routes that ComfyUI has both bare and below /api."""
    empty_object, empty_list = _constant({}), _constant([])
    return [
        web.get("/ws", websocket),
        web.get("/system_stats", system_stats),
        web.get("/features", features),
        web.get("/object_info", all_object_info),
        web.get("/object_info/{class_type}", one_object_info),
        web.get("/models", _constant(list(_MODEL_FOLDERS))),
        web.get("/models/{folder}", models),
        web.get("/users", _constant({"storage": "server", "migrated": False})),
        web.get("/settings", get_settings),
        web.post("/settings", post_settings),
        web.get("/settings/{key}", get_setting),
        web.post("/settings/{key}", post_setting),
        web.get("/userdata", userdata),
        web.get("/api/assets", no_assets),
        web.get("/extensions", extensions),
        *(web.get(f"/{x}", empty_list) for x in ("embeddings", "experiment/models")),
        *(
            web.get(f"/{x}", empty_object)
            for x in ("workflow_templates", "i18n", "node_replacements", "global_subgraphs")
        ),
    ]


def _constant(answer: Any) -> Any:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(answer)

    return handler


async def websocket(request: web.Request) -> web.WebSocketResponse:
    """Events for one client."""
    return await request.app[STATE].hub.serve(request)


async def system_stats(request: web.Request) -> web.Response:
    """Versions, memory and devices, as ComfyUI tells them, and who this is in truth."""
    total, free = _memory()
    system = {
        "os": sys.platform,
        "ram_total": total,
        "ram_free": free,
        "comfyui_version": request.app[STATE].version.text,
        "required_frontend_version": None,
        "installed_templates_version": None,
        "required_templates_version": None,
        "comfy_package_versions": [],
        "python_version": sys.version,
        "pytorch_version": None,
        "embedded_python": False,
        "deploy_environment": "embedded",
        "argv": [],
        "embedded_server": {
            "name": request.app[STATE].name,
            "implementation": "jupyter_comfy_lock",
            "version": _own_version(),
            "note": "Not ComfyUI: a small server that speaks its protocol and has no models.",
        },
    }
    device = {
        "name": "cpu",
        "type": "cpu",
        "index": None,
        "vram_total": total,
        "vram_free": free,
        "torch_vram_total": total,
        "torch_vram_free": free,
    }
    return web.json_response({"system": system, "devices": [device]})


def _own_version() -> str:
    try:
        return version("jupyter_comfy_lock")
    except PackageNotFoundError:
        return "unknown"


def _memory() -> tuple[int, int]:
    """Return total and available bytes; 0, 0 where the system does not tell."""
    if platform.system() != "Linux":
        return 0, 0
    page = os.sysconf("SC_PAGE_SIZE")
    return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page


async def features(request: web.Request) -> web.Response:
    """What this server can do."""
    if not request.app[STATE].version.tells_of_each_node:
        return await nothing_here(request)
    return web.json_response(dict(request.app[STATE].features))


async def all_object_info(request: web.Request) -> web.Response:
    """Describe every node class."""
    state = request.app[STATE]
    described = {name: object_info(spec, state.folders) for name, spec in state.nodes.items()}
    return web.json_response(described)


async def one_object_info(request: web.Request) -> web.Response:
    """Describe one node class; `{}` if there is none."""
    state = request.app[STATE]
    name = request.match_info["class_type"]
    spec = state.nodes.get(name)
    return web.json_response({name: object_info(spec, state.folders)} if spec else {})


async def extensions(request: web.Request) -> web.Response:
    """List the scripts that the web interface loads."""
    front_end = request.app[STATE].front_end
    return web.json_response(front_end.extensions() if front_end else [])


async def models(request: web.Request) -> web.Response:
    """List a model folder: there are no models here."""
    if request.match_info["folder"] not in _MODEL_FOLDERS:
        return web.Response(status=404)
    return web.json_response([])


async def get_settings(request: web.Request) -> web.Response:
    """All settings of the front end."""
    return web.json_response(request.app[STATE].settings)


async def post_settings(request: web.Request) -> web.Response:
    """Change some settings; they last as long as the server."""
    state = request.app[STATE]
    changed = await request.json()
    state.faults.check_disk()
    state.settings.update(changed)
    return web.Response()


async def get_setting(request: web.Request) -> web.Response:
    """One setting, or null."""
    return web.json_response(request.app[STATE].settings.get(request.match_info["key"]))


async def post_setting(request: web.Request) -> web.Response:
    """Change one setting."""
    state = request.app[STATE]
    value = await request.json()
    state.faults.check_disk()
    state.settings[request.match_info["key"]] = value
    return web.Response()


async def userdata(request: web.Request) -> web.Response:
    """List a folder of user files: there are none."""
    if not request.query.get("dir"):
        return web.Response(status=400, text="Directory not provided")
    return web.json_response([])


async def no_assets(request: web.Request) -> web.Response:
    """Say that there is no assets system."""
    message = "Assets system is disabled."
    error = {"code": "SERVICE_DISABLED", "message": message, "details": {}}
    return web.json_response({"error": error}, status=503)


async def nothing_here(request: web.Request) -> web.Response:
    """Answer any other GET as ComfyUI's folder of static files does."""
    return web.Response(status=404, content_type="application/octet-stream")


async def page(request: web.Request) -> web.Response:
    """Show what the server is, its queue and its last pictures."""
    state = request.app[STATE]
    pictures = [
        item
        for entry in reversed(state.queue.history().values())
        for output in entry["outputs"].values()
        for item in output.get("images", [])
    ]
    shown = "".join(_figure(x) for x in pictures[:_PICTURES_SHOWN])
    body = _PAGE.format(
        name=html.escape(state.name),
        version=state.version.text,
        running=len(state.queue.running()),
        waiting=len(state.queue.waiting()),
        pictures=shown or "<p>No pictures yet.</p>",
    )
    return web.Response(text=body, content_type="text/html")


def _figure(item: dict[str, str]) -> str:
    url = html.escape("view?" + urlencode(item))
    return f'<a href="{url}"><img src="{url}" alt="{html.escape(item["filename"])}"></a>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}</title>
<meta name="viewport" content="width=device-width">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fafafa; }}
img {{ height: 12rem; margin: 0 .5rem .5rem 0; border-radius: .4rem; }}
</style></head><body>
<h1>{name}</h1>
<p>This is the embedded server of <strong>jupyter_comfy_lock</strong>. It speaks the protocol of
ComfyUI {version} and runs image nodes on the CPU; it is not ComfyUI and has no models.</p>
<p>{running} running, {waiting} waiting</p>
<h2>Last pictures</h2>
{pictures}
</body></html>
"""
