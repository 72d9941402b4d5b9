"""Who may call what (R10)."""

import warnings

import pytest
from jupyter_server.utils import JupyterServerAuthWarning

from tests.server import graphs
from tests.server.described import API, path_of, routes
from tests.server.world import World


def calls_to_everything() -> list[tuple[str, str]]:
    return [(method, API + path_of(pattern, "0")) for method, pattern in routes()]


async def test_a_stranger_is_refused_everywhere(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    answers = {
        (method, path): (await world.stranger.raw(method, path)).status
        for method, path in calls_to_everything()
    }
    assert len(answers) >= 18
    assert set(answers.values()) == {403}


async def test_a_proof_is_good_for_nothing_but_hello(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    await kernel.submit(graphs.picture())
    answers = {
        (method, path): (
            await world.stranger.raw(
                method, path, headers={"Authorization": "ComfyKernelProof x:y"}, json={}
            )
        ).status
        for method, path in calls_to_everything()
        if not path.endswith("api/holders")
    }
    assert set(answers.values()) == {403}


async def test_the_key_in_the_gateways_url_is_good_for_the_gateway_alone(world: World):
    kernel = await world.kernel()
    await kernel.lock("gpu-1")
    as_kernel = {"Authorization": f"ComfyKernel {kernel.gateway_key}"}
    for method, path in [("GET", "tasks"), ("DELETE", "locks/mine"), ("DELETE", "holders/me")]:
        answer = await world.stranger.call(method, path, headers=as_kernel)
        assert answer.code == (403, "unknown_holder")
    answer = await world.stranger.raw("GET", f"comfy-lock/gateway/{kernel.credential}/queue")
    assert answer.code == (403, "unknown_holder")
    assert (await kernel.comfy("GET", "queue")).status == 200


@pytest.mark.parametrize("said", ["ComfyKernel nobody", "token wrong", "Bearer x", "ComfyKernel "])
async def test_an_unknown_credential_is_refused(world: World, said: str):
    answer = await world.stranger.call("GET", "tasks", headers={"Authorization": said})
    assert answer.status == 403
    if said == "ComfyKernel nobody":
        assert answer.code == (403, "unknown_holder")


async def test_no_handler_leaves_open_who_may_call_it(jp_configurable_serverapp, pool):
    config = {
        "ServerApp": {
            "jpserver_extensions": {"jupyter_comfy_lock": True},
            "reraise_server_extension_failures": True,
            "allow_unauthenticated_access": False,
        },
        "ComfyLock": {"pool": pool},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error", JupyterServerAuthWarning)
        jp_configurable_serverapp(config=config)


async def test_a_page_of_another_site_cannot_use_the_users_cookie(world: World):
    cookie = f"username-127-0-0-1={world.token}"
    for method, path in calls_to_everything():
        answer = await world.stranger.raw(
            method, path, headers={"Cookie": cookie, "Origin": "http://evil.example"}
        )
        assert answer.status in (403, 404), (method, path)
