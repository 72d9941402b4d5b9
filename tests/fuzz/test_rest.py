"""The REST API under calls that its description allows, and under such that it does not.

As three callers: a kernel, the Jupyter user, nobody. Nothing breaks, each answer is one that is
described, what is wrong is told by its name, nobody else's business is touched (R4, R10). In CI it
takes half a minute; COMFY_FUZZ=100000 has it send as the first two so many of each kind.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any, Literal
from uuid import uuid4

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.failures import FailureGroup
from yarl import URL

from jupyter_comfy_lock.domain.selftest import TRIALS
from jupyter_comfy_lock.server.openapi import description
from tests.fuzz.strange import HEADERS, Strange, random_request, strange_requests
from tests.fuzz.test_gateway import HIDDEN, b_at_work, nothing_happened_to_b
from tests.server import graphs
from tests.server.conftest import SECRET
from tests.server.conftest import comfies as comfies
from tests.server.conftest import jp_server_config as jp_server_config
from tests.server.conftest import pool as pool
from tests.server.conftest import world as world
from tests.server.described import API, Operation, check_event, closed, operations
from tests.server.world import Answer, Caller, Kernel, World

#: Requests of each caller beside those that are made from each limit in the description.
REQUESTS = int(os.environ.get("COMFY_FUZZ", "100"))
SEED = int(os.environ.get("COMFY_FUZZ_SEED", "1"))
#: What a request may at most wait in line. Of those who wait for ever nothing is heard while
#: another kernel has the ComfyServer, and to break off each would take longer than all the rest;
#: what comes of them is tested in tests/server/test_waiting.py.
WAIT_S = 0.05
#: Seconds; no answer that is waited for takes so long.
TIMEOUT_S = 20.0
#: Its answer has no end: to listen is tested on its own below.
ENDLESS = "listen"

Who = Literal["a kernel", "the Jupyter user", "nobody"]

load_all_checks()
CHECKED = CHECKS.get_by_names(
    [
        "not_a_server_error",
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "negative_data_rejection",
    ]
)


@pytest.fixture
def settings() -> dict[str, Any]:
    """Kernels need not say that they live for as long as a long run takes."""
    return {"lease_ttl_s": 3600.0}


def the_schema() -> Any:
    """Return what schemathesis makes of the description.

    Who calls is for each caller to say: otherwise it would be made up as well.
    """
    said = closed(copy.deepcopy(description()))
    for operation in operations_in(said):
        operation.pop("security", None)
    del said["security"], said["components"]["securitySchemes"]
    return schemathesis.openapi.from_dict(said)


def operations_in(said: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in said["paths"].values():
        yield from (each for verb, each in path.items() if verb != "parameters")


class Sender:
    """Sends cases as one caller, from a thread; the Jupyter server runs on the loop of the test."""

    def __init__(self, world: World, who: Who, kernel: Kernel | None, loop: Any) -> None:
        self._world, self._who, self._kernel, self._loop = world, who, kernel, loop
        self._session = requests.Session()
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []
        self.secrets = [SECRET, HIDDEN]

    def send(self, case: Case) -> None:
        _keep_it_short(case)
        headers = {"Authorization": self._authorization()}
        response = case.call(
            base_url=f"{self._world.base}{API}",
            session=self._session,
            headers=headers,
            timeout=TIMEOUT_S,
            allow_redirects=False,
        )
        self.statuses[response.status_code] += 1
        told = response.content + repr(sorted(response.headers.items())).encode()
        shown = f"{case.method} {response.request.path_url} {str(case.body)[:500]}"
        self.faults += [f"{x} is told by {shown}" for x in self.secrets if x.encode() in told]
        if self._who == "nobody" and response.status_code not in (400, 403, 405):
            self.faults.append(f"{response.status_code} for nobody: {shown}")
        try:
            case.validate_response(response, checks=CHECKED, headers=headers)
        except FailureGroup as failures:
            self.faults += [
                f"{each} for {shown}: {response.text[:500]}" for each in failures.exceptions
            ]
        if (case.method, case.path) == ("DELETE", "/holders/me") and response.status_code == 204:
            self._kernel = asyncio.run_coroutine_threadsafe(self._another(), self._loop).result()

    def _authorization(self) -> str:
        if self._who == "the Jupyter user":
            return f"token {self._world.token}"
        return f"ComfyKernel {self._kernel.credential}" if self._kernel else ""

    async def _another(self) -> Kernel:
        kernel = await self._world.kernel("a.ipynb")
        await kernel.lock("gpu-1")
        return kernel


def _keep_it_short(case: Case) -> None:
    """Have a case wait no longer than it may, and take nobody's port."""
    if not isinstance(case.body, dict):
        return
    wait = case.body.get("wait", 0)
    good = wait is None or (isinstance(wait, int | float) and not isinstance(wait, bool))
    if good and (wait is None or WAIT_S < wait <= 1e9):
        case.body["wait"] = WAIT_S
    if case.path == "/selftest" and case.body.get("name", "") in (None, "", *TRIALS):
        # Each of the others takes places and sends prompts: they are tested where they are done.
        case.body["name"] = "identity"
    port = case.body.get("port", 0)
    if type(port) is int and 0 < port < 2**16:
        # Somebody else may need it.
        case.body["port"] = 0


def send_all(sender: Sender, names: list[str], random_ones: int) -> None:
    """Send a case for each limit that is described, then about so many random ones."""
    schema = the_schema()
    operations = [each.ok() for each in schema.get_all_operations()]
    operations = [x for x in operations if x.definition.raw.get("operationId") != ENDLESS]
    for operation in operations:
        for case in schema.iter_coverage_cases(
            operation,
            generation_modes=list(GenerationMode),
            generation_config=schema.config.generation,
        ):
            sender.send(case)
    ways = [(x, mode) for x in operations for mode in GenerationMode if can_be(mode, x)]
    for operation, mode in ways:
        send_random(sender, operation, mode, names, random_ones // len(ways) + 1)


def can_be(mode: GenerationMode, operation: Any) -> bool:
    """Whether there is more than one call of an operation that is right, or one that is wrong."""
    if operation.body:
        return True
    # Whatever stands in a path is text.
    types = {each.definition["schema"]["type"] for each in operation.path_parameters}
    return bool(types) if mode.is_positive else bool(types - {"string"})


def send_random(
    sender: Sender, operation: Any, mode: GenerationMode, names: list[str], number: int
) -> None:
    """Send so many random cases of an operation; half of them name what there is."""

    @seed(SEED)
    @hypothesis_settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode), st.none() | st.sampled_from(names))
    def one(case: Case, name: str | None) -> None:
        if name is not None and case.path_parameters:
            case.path_parameters[next(iter(case.path_parameters))] = name
        sender.send(case)

    one()


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("who", ["a kernel", "the Jupyter user", "nobody"])
async def test_r4_whatever_is_sent_the_answer_is_one_that_is_described(
    world: World, who: Who, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1")
    task = await a.ended(await a.submit(graphs.picture()))
    b, ids, _ = await b_at_work(world)
    kernel = a if who == "a kernel" else None
    sender = Sender(world, who, kernel, asyncio.get_running_loop())
    sender.secrets += [b.credential, b.gateway_key]
    if who == "the Jupyter user":
        # He sees everybody's, and may end it.
        sender.secrets.remove(HIDDEN)
    names = [*ids, task["task_id"], b.holder_id, b.kernel_id, "gpu-1", "gpu-2", "me", "mine", "0"]
    start = time.perf_counter()
    # What nobody sends is not even read.
    random_ones = 0 if who == "nobody" else REQUESTS
    await asyncio.to_thread(send_all, sender, names, random_ones)
    seconds = time.perf_counter() - start
    total = sender.statuses.total()
    print(f"{total} requests of {who} in {seconds:.0f} s: {dict(sender.statuses)}")
    assert not sender.faults, "\n".join(sender.faults)
    assert faults_logged(caplog) == []
    if who != "the Jupyter user":
        await nothing_happened_to_b(world, b, ids)


# -- the stream ------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["a kernel", "the Jupyter user", "nobody"])
async def test_r4_however_one_listens_one_hears_what_is_ones_own(
    world: World, who: Who, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    a = await world.kernel("a.ipynb")
    _, ids, _ = await b_at_work(world)
    said = {"a kernel": f"ComfyKernel {a.credential}", "the Jupyter user": f"token {world.token}"}
    for name, value in HEADERS:
        headers = {"Authorization": said.get(who, ""), name: value}
        status, told = await first_event(world, headers)
        # What is announced as a form, and is none, nobody reads.
        assert status == (400 if "multipart" in value else 403 if who == "nobody" else 200)
        everybodys = status == 200 and who == "the Jupyter user"
        assert [each in told for each in ids] == [everybodys] * 3, (name, value)
        assert SECRET not in told
    assert faults_logged(caplog) == []


async def first_event(world: World, headers: dict[str, str]) -> tuple[int, str]:
    """Return the status, and all that is told up to the end of the first event."""
    url = URL(f"{world.base}{API}/events", encoded=True)
    async with asyncio.timeout(TIMEOUT_S), world.session.get(url, headers=headers) as response:
        told = ""
        # The stream has no end.
        async for line in response.content:
            told += line.decode()
            if told.endswith("\n\n"):
                break
    if response.status == 200:
        fields = dict(line.split(": ", 1) for line in told.splitlines() if line)
        check_event(fields["event"], fields["data"])
    return response.status, told


def faults_logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was raised and not meant to be.

    ComfyUI itself, and with it the embedded server, raises for what is no prompt.
    """
    ours = [x for x in caplog.records if x.name != "aiohttp.server" and x.exc_info]
    return [f"{x.getMessage()}: {x.exc_info}" for x in ours]


# -- on the wire -----------------------------------------------------------------------------------


class Prober:
    """Sends strange requests as one caller, and looks at what comes back."""

    def __init__(self, world: World, who: Who, kernel: Kernel | None) -> None:
        self._world, self._who, self._kernel = world, who, kernel
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []

    @property
    def caller(self) -> Caller:
        if self._kernel is not None:
            return self._kernel
        return self._world.user if self._who == "the Jupyter user" else self._world.stranger

    async def send(self, strange: Strange) -> None:
        method, headers = strange.operation.method, dict(strange.headers)
        shown = f"{method} {strange.path[:200]} {strange.headers} {(strange.body or b'')[:200]!r}"
        if strange.operation.name == "submit" and self._kernel is not None:
            # It has been released, perhaps.
            await self._kernel.lock("gpu-1")
        try:
            # Each answer is compared with the description where it comes in.
            answer = await self.caller.raw(method, strange.path, headers=headers, data=strange.body)
        except AssertionError as wrong:
            self.faults.append(f"{shown}: {str(wrong)[:1000]}")
            return
        self.statuses[answer.status] += 1
        if answer.status >= 500 or SECRET.encode() in answer.body:
            self.faults.append(f"{answer.status} for {shown}: {answer.body[:500]!r}")
        if strange.wrong is not None and self.may(strange.operation):
            named = answer.status == 400 and answer.json()["details"].get("field")
            if named != strange.wrong and not is_no_workflow(strange, answer):
                told = answer.body[:500]
                self.faults.append(
                    f"{answer.status} without {strange.wrong!r} for {shown}: {told!r}"
                )
        if strange.operation.name == "leave" and answer.status == 204:
            self._kernel = await self._world.kernel("a.ipynb")

    def may(self, operation: Operation) -> bool:
        """Whether the caller may do such a thing at all."""
        kinds = operation.said.get("security", [{"kernelCredential": []}, {"jupyterToken": []}])
        mine = {"a kernel": "kernelCredential", "the Jupyter user": "jupyterToken"}.get(self._who)
        return any(mine in each for each in kinds)


def is_no_workflow(strange: Strange, answer: Answer) -> bool:
    return strange.wrong == "prompt" and answer.json()["code"] == "invalid_workflow"


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("who", ["a kernel", "the Jupyter user", "nobody"])
async def test_r4_whatever_is_wrong_is_told_by_its_name(
    world: World, who: Who, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    a = await world.kernel("a.ipynb")
    await a.lock("gpu-1")
    task = await a.ended(await a.submit(graphs.picture()))
    b, ids, _ = await b_at_work(world)
    parts = {"task_id": task["task_id"], "number": "0", "comfy_id": "gpu-1"}
    parts |= {"holder_id": "nobody.1", "request_id": str(uuid4())}
    prober = Prober(world, who, a if who == "a kernel" else None)
    random = Random(SEED)
    start = time.perf_counter()
    for strange in strange_requests(parts):
        # Of those who may do no such thing nobody reads what they send.
        if prober.may(strange.operation) or not (strange.wrong or strange.headers):
            await prober.send(strange)
    ending = [each for each in operations() if each.name != "listen"]
    for _ in range(REQUESTS if who != "nobody" else 0):
        await prober.send(random_request(random.choice(ending), parts, random))
    seconds = time.perf_counter() - start
    total = prober.statuses.total()
    print(f"{total} strange requests of {who} in {seconds:.0f} s: {dict(prober.statuses)}")
    assert not prober.faults, "\n".join(prober.faults)
    assert faults_logged(caplog) == []
    if who == "nobody":
        assert set(prober.statuses) <= {400, 403, 404, 405}
    if who != "the Jupyter user":
        await nothing_happened_to_b(world, b, ids)
