"""Two Jupyter servers on one store and one pool: a lock is one lock over both (R6, R7, R8)."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.comfy import Line, endless_workflow, line_to, queue, running, steps_workflow
from tests.e2e.jupyter import CellFailed, Jupyter, Kernel, running_jupyter, until
from tests.postgres import Postgres

pytestmark = pytest.mark.timeout(240)

IMPORT = "import jupyter_comfy_lock as comfy"
WAIT = "comfy.lock('gpu-1', mode='exclusive', wait=None)"
#: Seconds: of a lease that is waited for, and what may come on top on a busy machine.
LEASE_S, SOON_S = 6.0, 30.0


@dataclass
class Site:
    """Two Jupyter servers of one user."""

    one: Jupyter
    two: Jupyter
    #: On the way to gpu-1.
    line: Line
    _kernels: dict[str, Kernel] = field(default_factory=dict)

    def kernels(self, *names: str) -> list[Kernel]:
        """Kernels on the first and the second Jupyter server by turns, which hold nothing."""
        servers = [self.one, self.two]
        new = [name for name in names if name not in self._kernels]
        for name in new:
            # Each of them loads while the next one is started.
            self._kernels[name] = servers[names.index(name) % 2].kernel(f"{name}.ipynb")
        for name in names:
            self._kernels[name].run(IMPORT if name in new else "comfy.release()")
        return [self._kernels[name] for name in names]

    def end(self, kernel: Kernel) -> None:
        """Shut a kernel down."""
        self._kernels = {name: x for name, x in self._kernels.items() if x is not kernel}
        kernel.jupyter.shut_down(kernel)

    def who_holds(self) -> list[str]:
        """The names of those who hold gpu-1, as both Jupyter servers tell them."""

        def told() -> list[list[str]]:
            return [
                [x["name"] for x in each.locks() if x["comfy_id"] == "gpu-1"]
                for each in (self.one, self.two)
            ]

        # Between the two questions it may have changed.
        both = until(
            lambda: (x := told())[0] == x[1] and x, within_s=SOON_S, what="two equal answers"
        )
        assert both
        return both[0]

    def in_line(self) -> list[str]:
        waiting = self.two.get("locks")["waiting"]
        return [x["name"] for x in sorted(waiting, key=lambda x: x["place"])]


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """Where the locks are kept."""
    return str(request.param)


def open_site(
    stack: ExitStack,
    kind: str,
    folder: Path,
    pool: Sequence[Mapping[str, str]],
    request: pytest.FixtureRequest,
    **settings: Any,
) -> Site:
    """Start both; a SQLite store is shared as one user's Jupyter servers share it."""
    line = stack.enter_context(line_to(pool[0]["url"]))
    ours = [{"id": "gpu-1", "url": line.url}, {"id": "gpu-2", "url": pool[1]["url"]}]
    if kind == "postgres":
        settings["store"] = request.getfixturevalue("postgres").fresh_database()
    (folder / "data").mkdir()

    def start(name: str) -> Jupyter:
        (folder / name).mkdir()
        (folder / name / "data").symlink_to(folder / "data")
        server = running_jupyter(ours, folder=folder / name, config={"ComfyLock": settings})
        return stack.enter_context(server)

    with ThreadPoolExecutor(2) as side_by_side:
        servers = list(side_by_side.map(start, ("one", "two")))
    return Site(*servers, line)


@pytest.fixture(scope="module")
def site(
    kind: str,
    embedded_pool: Sequence[Mapping[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[Site]:
    """For tests that leave both as they were; leases are short."""
    folder = tmp_path_factory.mktemp("site")
    with ExitStack() as stack:
        yield open_site(stack, kind, folder, embedded_pool, request, lease_ttl_s=LEASE_S)


def begin_endless(site: Site, kernel: Kernel) -> str:
    """A prompt of the kernel that runs."""
    kernel.run(f"task = comfy.submit({endless_workflow()!r})")
    task_id = str(kernel.ask("task.id"))
    until(lambda: task_id in running(site.line.comfy_url), within_s=SOON_S, what="a prompt")
    return task_id


def test_exclusive_is_exclusive_over_both(site: Site) -> None:
    a, b = site.kernels("a", "b")
    a.run("comfy.lock('gpu-1', mode='exclusive')")
    with pytest.raises(CellFailed, match=r"LockRefused: .*a\.ipynb holds it exclusively"):
        b.run("comfy.lock('gpu-1')")
    assert site.who_holds() == ["a.ipynb"]
    assert b.ask("comfy.locked_server") is None
    a.run("comfy.release()")
    b.run("comfy.lock('gpu-1', mode='exclusive')")
    assert site.who_holds() == ["b.ipynb"]
    with pytest.raises(CellFailed, match=r"b\.ipynb holds it exclusively"):
        a.run("comfy.lock('gpu-1')")
    b.run("comfy.release()")


def test_the_line_is_one_over_both_and_each_is_told_its_place(site: Site) -> None:
    a, b, c, d = site.kernels("a", "b", "c", "d")
    a.run("comfy.lock('gpu-1', mode='exclusive')")
    for kernel, standing in ((b, "1st"), (c, "2nd"), (d, "3rd")):
        kernel.begin(WAIT, said=f"held by a.ipynb since {clock(site)}, you are {standing}")
    assert site.in_line() == ["b.ipynb", "c.ipynb", "d.ipynb"]
    for last, following in ((a, b), (b, c), (c, d)):
        last.run("comfy.release()")
        # Answered when the cell that waits has ended.
        assert following.ask("comfy.locked_server") == "gpu-1"
        assert site.who_holds() == [following.path]
    d.run("comfy.release()")


def clock(site: Site) -> str:
    """Since when gpu-1 is held, as people are told."""
    (lock,) = [x for x in site.one.locks() if x["comfy_id"] == "gpu-1"]
    return f"{datetime.fromtimestamp(lock['granted_at']):%H:%M}"


def test_a_kernel_that_ends_makes_way_for_one_of_the_other_server(site: Site) -> None:
    a, b = site.kernels("a", "b")
    a.run("comfy.lock('gpu-1', mode='exclusive')")
    begin_endless(site, a)
    b.begin(WAIT, said="Waiting for gpu-1")
    site.end(a)
    assert b.ask("comfy.locked_server", timeout_s=SOON_S) == "gpu-1"
    assert queue(site.line.comfy_url) == set()
    b.run("comfy.release()")


def test_what_the_operator_takes_away_on_the_other_server_is_told_there(site: Site) -> None:
    a, b = site.kernels("a", "b")
    a.run("comfy.lock('gpu-1', mode='exclusive')")
    task_id = begin_endless(site, a)
    (lock,) = [x for x in site.two.locks() if x["name"] == "a.ipynb"]
    path = f"comfy-lock/api/holders/{lock['holder_id']}/release"
    released = site.two.http.post(path, json={"why": "the GPU is needed"}).raise_for_status()
    assert released.json()["released"]["name"] == "a.ipynb"
    # Its own Jupyter server confirms that nothing more goes out, and takes its prompts off.
    b.run(WAIT, timeout_s=SOON_S)
    assert queue(site.line.comfy_url) == set()
    assert site.who_holds() == ["b.ipynb"]
    with pytest.raises(CellFailed, match=r"taken away by .* at .*: the GPU is needed"):
        a.run(f"comfy.submit({steps_workflow(steps=1, delay=0)!r})")
    assert site.one.task(task_id)["state"] == "cancelled"
    b.run("comfy.release()")
    # It may lock again, and works.
    a.run("comfy.lock('gpu-1')")
    a.run(f"comfy.submit({steps_workflow(steps=1, delay=0)!r}).wait(20)")
    a.run("comfy.release()")


def test_a_comfy_server_that_is_closed_on_one_is_closed_on_the_other(site: Site) -> None:
    a, b = site.kernels("a", "b")
    a.run("comfy.lock('gpu-1')")
    path = "comfy-lock/api/pool/gpu-1/state"
    site.two.http.put(path, json={"state": "disabled", "why": "new GPU"}).raise_for_status()
    try:
        for kernel in (a, b):
            with pytest.raises(CellFailed, match=r"disabled by .*: new GPU"):
                kernel.run("comfy.lock('gpu-1', mode='exclusive')")
        until(lambda: not site.who_holds(), within_s=SOON_S, what="its end for a.ipynb")
    finally:
        site.two.http.put(path, json={"state": "open"}).raise_for_status()
    a.run("comfy.lock('gpu-1', mode='exclusive'); comfy.release()")


# -- one of them ends, or stops for a while ------------------------------------------------------


def test_what_a_killed_one_held_goes_to_the_other_before_its_lease_is_over(
    kind: str,
    embedded_pool: Sequence[Mapping[str, str]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """On one machine its process is seen to have ended."""
    lease_s = 60.0
    with ExitStack() as stack:
        site = open_site(stack, kind, tmp_path, embedded_pool, request, lease_ttl_s=lease_s)
        a, b = site.kernels("a", "b")
        a.run("comfy.lock('gpu-1', mode='exclusive')")
        task_id = begin_endless(site, a)
        site.one.signal(signal.SIGKILL)
        until(site.one.ended, within_s=10, what="the end of a Jupyter server")
        b.run(WAIT, timeout_s=lease_s * 0.75)
        assert queue(site.line.comfy_url) == set()
        assert site.two.task(task_id)["state"] == "cancelled"
        assert len(site.two.log_lines(f"Task {task_id} of", "cancelled")) == 1
        assert len(site.two.log_lines("a.ipynb", "lost gpu-1")) == 1
        b.run(f"comfy.submit({steps_workflow(steps=1, delay=0)!r}).wait(20)")


def test_one_that_was_suspended_forwards_nothing_under_what_it_lost(site: Site) -> None:
    """R7."""
    a, b = site.kernels("a", "b")
    a.run("comfy.lock('gpu-1', mode='exclusive')")
    task_id = begin_endless(site, a)
    gateway = a.ask("comfy.url")
    old = a.ask("comfy.lock().fence")
    b.begin(WAIT, said="Waiting for gpu-1: held by a.ipynb")
    with ThreadPoolExecutor(8) as pool:
        site.one.signal(signal.SIGSTOP)
        try:
            # These reach a process that does not know yet that time has passed.
            early = [pool.submit(call, gateway, n) for n in range(4)]
            assert b.ask("comfy.locked_server", timeout_s=LEASE_S + SOON_S) == "gpu-1"
            assert b.ask("comfy.lock().fence") > old
            assert queue(site.line.comfy_url) == set()
            mark = len(site.line.heard)
        finally:
            site.one.signal(signal.SIGCONT)
        late = [call(gateway, n) for n in range(4, 40)]
        answers = [each.result(60) for each in early] + late
    assert {answer.status_code for answer in answers} == {409}
    codes = [answer.json()["code"] for answer in answers]
    assert "stale_lock" in codes
    assert set(codes) <= {"stale_lock", "no_lock"}
    heard = bytes(site.line.heard[mark:])
    assert b"Marker" not in heard
    assert b"POST /free" not in heard
    assert b"POST /prompt" not in heard
    # Its kernel is told, and its task has one end, by the hand of the other one.
    with pytest.raises(CellFailed, match=r"LockLost|StaleLock|NoLock"):
        a.run(f"import warnings; warnings.simplefilter('error')\n{SUBMIT}")
    assert site.two.task(task_id)["state"] == "cancelled"
    until(
        lambda: site.one.task(task_id)["state"] == "cancelled",
        within_s=SOON_S,
        what="the end of the task where it was begun",
    )
    ends = site.two.log_lines(f"Task {task_id} of") + site.one.log_lines(f"Task {task_id} of")
    assert len(ends) == 1, ends
    # It can lock again, behind the other one.
    with pytest.raises(CellFailed, match=r"b\.ipynb holds it exclusively"):
        a.run("comfy.lock('gpu-1')")
    b.run("comfy.release()")
    a.run(WAIT, timeout_s=SOON_S)
    a.run(f"comfy.submit({steps_workflow(steps=1, delay=0)!r}).wait(20)")
    assert site.who_holds() == ["a.ipynb"]


SUBMIT = f"comfy.submit({steps_workflow(steps=1, delay=0)!r})"


def call(gateway: str, number: int) -> httpx.Response:
    """One of several kinds of call, each of which would leave a mark on the ComfyServer."""
    with httpx.Client(base_url=gateway, timeout=60.0) as client:
        match number % 4:
            case 0:
                return client.get(f"object_info/Marker{number}")
            case 1:
                return client.post("free", json={})
            case 2:
                return client.post("prompt", json={"prompt": steps_workflow(steps=1, delay=0)})
            case _:
                return client.get("queue")


def test_a_short_sleep_costs_nobody_its_lock(site: Site) -> None:
    a, b = site.kernels("a", "b")
    a.run("comfy.lock('gpu-1', mode='exclusive')")
    process = psutil.Process(site.one.server.pid)
    process.suspend()
    # Asked while it sleeps, the other one finds nothing to end.
    with pytest.raises(CellFailed, match=r"a\.ipynb holds it exclusively"):
        b.run("comfy.lock('gpu-1')")
    process.resume()
    a.run(f"{SUBMIT}.wait(20)")
    assert site.who_holds() == ["a.ipynb"]


# -- the store ends for a while ------------------------------------------------------------------


def test_a_database_that_crashes_takes_no_lock_with_it(
    postgres: Postgres,
    embedded_pool: Sequence[Mapping[str, str]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    with ExitStack() as stack:
        site = open_site(stack, "postgres", tmp_path, embedded_pool, request)
        a, b, c = site.kernels("a", "b", "c")
        a.run("comfy.lock('gpu-1', mode='exclusive')")
        task_id = begin_endless(site, a)
        gateway = a.ask("comfy.url")
        b.begin(WAIT, said="Waiting for gpu-1: held by a.ipynb")
        postgres.kill()
        try:
            # What is held goes on, and nothing new begins.
            assert httpx.get(f"{gateway}queue", timeout=30).status_code == 200
            assert httpx.post(f"{gateway}free", json={}, timeout=30).status_code == 200
            with pytest.raises(CellFailed, match=r"StoreUnavailable"):
                c.run("comfy.lock('gpu-2')", timeout_s=90)
            assert task_id in running(site.line.comfy_url)
        finally:
            postgres.restart()
        until(lambda: holds(site, "a.ipynb"), within_s=SOON_S, what="locks that are told again")
        with pytest.raises(CellFailed, match=r"a\.ipynb holds it exclusively"):
            c.run("comfy.lock('gpu-1')")
        a.run("task.cancel()")
        a.run("comfy.release()")
        # Who waited waits on, or asks again; there is no second one who has it.
        assert b.ask("comfy.locked_server", timeout_s=60) == "gpu-1"
        b.run(f"{SUBMIT}.wait(20)")
        assert site.who_holds() == ["b.ipynb"]


def holds(site: Site, name: str) -> bool:
    try:
        return site.who_holds() == [name]
    except httpx.HTTPStatusError:
        return False
