"""R8: the end of a kernel is the end of its lock, however it ends."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.comfy_servers import test_environment
from tests.e2e.comfy import (
    Line,
    ended_well,
    endless_workflow,
    line_to,
    queue,
    running,
    steps_workflow,
    submit_raw,
)
from tests.e2e.jupyter import Jupyter, Kernel, running_jupyter, until
from tests.e2e.releases import Releases

pytestmark = pytest.mark.timeout(300)

#: Seconds in which all is released while the Jupyter server lives.
PROMISED_S = 5.0
BUSY = "import time; print('busy', flush=True); time.sleep(600)"
_numbers = itertools.count(1)
FORK = "(lambda pid: pid or __import__('time').sleep(600))(__import__('os').fork())"
START = "import jupyter_comfy_lock as comfy\ncomfy.lock('gpu-1')"

Act = Callable[[Jupyter, Kernel, int], None]


def shut_down(jupyter: Jupyter, kernel: Kernel, pid: int) -> None:
    jupyter.shut_down(kernel)


def restart(jupyter: Jupyter, kernel: Kernel, pid: int) -> None:
    jupyter.restart(kernel)


def delete_session(jupyter: Jupyter, kernel: Kernel, pid: int) -> None:
    jupyter.delete_session(kernel)


def kill(jupyter: Jupyter, kernel: Kernel, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class House:
    """A Jupyter server, a ComfyServer, and a kernel on both that is nobody's business."""

    jupyter: Jupyter
    line: Line
    bystander: Kernel
    kind: str

    def submit(self, kernel: Kernel, workflow: Mapping[str, Any]) -> str:
        kernel.run(f"task = comfy.submit({workflow!r})")
        return str(kernel.ask("task.id"))


@dataclass(frozen=True)
class Victim:
    """A kernel with one task that runs and one that waits behind a bystander's."""

    kernel: Kernel | None
    pid: int
    holder_id: str
    tasks: tuple[str, str]
    bystanders_task: str
    sockets_before: int


@contextmanager
def a_house(
    comfy_pool: Sequence[Mapping[str, str]],
    kind: str,
    folder: Path,
    config: Mapping[str, Any] | None = None,
) -> Iterator[House]:
    with (
        line_to(comfy_pool[0]["url"]) as line,
        running_jupyter(
            [{"id": "gpu-1", "url": line.url}], folder=folder, config=config
        ) as jupyter,
    ):
        bystander = jupyter.kernel("bystander.ipynb")
        bystander.run(START)
        yield House(jupyter, line, bystander, kind)


@pytest.fixture(scope="module")
def house(
    comfy_pool: Sequence[Mapping[str, str]],
    comfy_kind: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    with a_house(comfy_pool, comfy_kind, tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture(scope="module")
def house_without_autorestart(
    comfy_pool: Sequence[Mapping[str, str]],
    comfy_kind: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    config = {"KernelManager": {"autorestart": False}}
    with a_house(comfy_pool, comfy_kind, tmp_path_factory.mktemp("house"), config) as made:
        yield made


def a_victim(house: House, *, busy: bool) -> Victim:
    kernel = house.jupyter.kernel(f"victim-{next(_numbers)}.ipynb")
    pid = kernel.pid()
    sockets_before = house.line.sockets
    kernel.run(START)
    first = house.submit(kernel, endless_workflow())
    bystanders = house.submit(house.bystander, steps_workflow(steps=3, delay=0.05))
    second = house.submit(kernel, endless_workflow())
    until(lambda: first in running(house.line.comfy_url), within_s=20, what="a running prompt")
    assert queue(house.line.comfy_url) == {first, bystanders, second}
    until(lambda: house.line.sockets == sockets_before + 1, within_s=5, what="a WebSocket")
    if busy:
        kernel.begin(BUSY, said="busy")
    (lock,) = [x for x in house.jupyter.locks() if x["name"] == kernel.path]
    return Victim(kernel, pid, lock["holder_id"], (first, second), bystanders, sockets_before)


def assert_released(
    house: House, victim: Victim, name: str, act: Callable[[], object], releases: Releases
) -> None:
    jupyter, comfy_url = house.jupyter, house.line.comfy_url
    held = {victim.holder_id}
    releases.measure(
        f"{name} ({house.kind})",
        act,
        {
            "lock": lambda: not held & {lock["holder_id"] for lock in jupyter.locks()},
            "queue": lambda: not queue(comfy_url) & set(victim.tasks),
            "tasks": lambda: all(jupyter.task(each)["ended_at"] for each in victim.tasks),
            "sockets": lambda: house.line.sockets == victim.sockets_before,
        },
        within_s=PROMISED_S,
    )
    assert_cancelled_once(jupyter, victim.tasks, jupyter.log())
    assert len(jupyter.log_lines(victim.holder_id, "released gpu-1")) == 1
    # R4: the lock and the task of another kernel on the same ComfyServer.
    assert jupyter.holds(house.bystander.kernel_id)
    assert house.bystander.ask("str(task.wait(20).state)") == "succeeded"


def assert_cancelled_once(jupyter: Jupyter, tasks: Sequence[str], log: str) -> None:
    for task_id in tasks:
        task = jupyter.task(task_id)
        assert task["state"] == "cancelled"
        assert task["reason"]
        ends = [line for line in log.splitlines() if f"Task {task_id} of" in line]
        assert len(ends) == 1, ends


@pytest.mark.complaint(11)
@pytest.mark.complaint(12)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("act", [shut_down, delete_session, kill], ids=lambda act: act.__name__)
def test_everything_is_released_when_a_kernel_ends(
    house: House, act: Act, busy: bool, releases: Releases
) -> None:
    victim = a_victim(house, busy=busy)
    name = f"{act.__name__}, {'busy' if busy else 'idle'}"
    assert_released(
        house, victim, name, lambda: act(house.jupyter, victim.kernel, victim.pid), releases
    )


def test_everything_is_released_when_a_cell_calls_exit(house: House, releases: Releases) -> None:
    victim = a_victim(house, busy=False)
    assert_released(house, victim, "exit()", lambda: victim.kernel.send("exit()"), releases)


@pytest.mark.complaint(11)
@pytest.mark.complaint(12)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_restarted_kernel_starts_without_a_lock_and_may_lock_at_once(
    house: House, busy: bool, releases: Releases
) -> None:
    victim = a_victim(house, busy=busy)
    name = f"restart, {'busy' if busy else 'idle'}"
    assert_released(house, victim, name, lambda: house.jupyter.restart(victim.kernel), releases)
    kernel = victim.kernel
    kernel.reconnect()
    assert kernel.ask("__import__('jupyter_comfy_lock').locked_server") is None
    kernel.run(START)
    (lock,) = [x for x in house.jupyter.locks() if x["name"] == kernel.path]
    assert lock["holder_id"] != victim.holder_id
    # Late news of the restart, and the looks at all holders meanwhile, leave it alone.
    task = house.submit(kernel, steps_workflow(steps=30, delay=0.1))
    assert kernel.ask("str(task.wait(20).state)") == "succeeded"
    assert house.jupyter.task(task)["holder_id"] == lock["holder_id"]
    assert kernel.ask("comfy.locked_server") == "gpu-1"
    house.jupyter.shut_down(kernel)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_everything_is_released_when_a_killed_kernel_is_not_restarted(
    house_without_autorestart: House, busy: bool, releases: Releases
) -> None:
    house = house_without_autorestart
    victim = a_victim(house, busy=busy)
    name = f"kill, no autorestart, {'busy' if busy else 'idle'}"
    assert_released(house, victim, name, lambda: os.kill(victim.pid, signal.SIGKILL), releases)


@pytest.mark.complaint(12)
def test_everything_is_released_when_a_kernel_is_culled(
    comfy_pool: Sequence[Mapping[str, str]], tmp_path: Path
) -> None:
    config = {"MappingKernelManager": {"cull_idle_timeout": 3, "cull_interval": 1}}
    with running_jupyter(comfy_pool[:1], folder=tmp_path, config=config) as jupyter:
        kernel, url = jupyter.kernel("idle.ipynb"), comfy_pool[0]["url"]
        # A kernel whose task view changes is not idle to Jupyter.
        kernel.run(f"import os; os.environ['COMFY_LOCK_WIDGETS'] = '0'\n{START}")
        kernel.run(f"task = comfy.submit({endless_workflow()!r})")
        task_id = str(kernel.ask("task.id"))
        kernel.disconnect()
        until(
            lambda: len(jupyter.log_lines("Culling", kernel.kernel_id)),
            within_s=60,
            what="the culling of an idle kernel",
        )
        until(
            lambda: not (queue(url) or jupyter.locks()),
            within_s=PROMISED_S,
            what="an idle ComfyServer that nobody holds",
        )
        assert jupyter.task(task_id)["state"] == "cancelled"
        assert len(jupyter.log_lines("idle.ipynb", "released gpu-1")) == 1


def test_a_child_that_keeps_the_sockets_of_a_killed_kernel_open_keeps_no_lock(
    house_without_autorestart: House, releases: Releases
) -> None:
    house = house_without_autorestart
    victim = a_victim(house, busy=False)
    child = victim.kernel.ask(FORK)
    try:
        name = "kill, no autorestart, forked child"
        assert_released(house, victim, name, lambda: os.kill(victim.pid, signal.SIGKILL), releases)
    finally:
        os.kill(child, signal.SIGKILL)


# -- attached holders ------------------------------------------------------------------------

SCRIPT = """
import json, sys
import jupyter_comfy_lock as comfy
from tests.e2e.comfy import endless_workflow
comfy.lock("gpu-1")
tasks = [comfy.submit(endless_workflow()).id for _ in range(2)]
print(json.dumps(tasks), flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["returns", "is killed"])
def test_everything_is_released_when_an_attached_script_ends(
    house: House, end: str, releases: Releases
) -> None:
    server = house.jupyter.server
    sockets_before = house.line.sockets
    bystanders = house.submit(house.bystander, steps_workflow(steps=20, delay=0.1))
    environment = {"COMFY_LOCK_URL": server.url, "COMFY_LOCK_TOKEN": server.token}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**test_environment(), **environment},
        text=True,
    ) as script:
        assert script.stdin is not None
        assert script.stdout is not None
        try:
            first, second = json.loads(script.stdout.readline())
            until(lambda: first in running(house.line.comfy_url), within_s=20, what="a prompt")
            holder_id = house.jupyter.task(first)["holder_id"]
            assert holder_id.startswith("attached-")
            victim = Victim(
                None, script.pid, holder_id, (first, second), bystanders, sockets_before
            )
            act = script.kill if end == "is killed" else script.stdin.close
            assert_released(house, victim, f"attached script {end}", act, releases)
        finally:
            script.kill()


# -- the end of the Jupyter server -----------------------------------------------------------

LEASE_S = 6.0


@pytest.mark.complaint(12)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_everything_is_released_when_the_jupyter_server_ends(
    comfy_pool: Sequence[Mapping[str, str]],
    comfy_kind: str,
    name: str,
    tmp_path: Path,
    releases: Releases,
) -> None:
    number = signal.Signals[name]
    row = f"Jupyter server gets {name} ({comfy_kind})"
    with ExitStack() as stack:
        line = stack.enter_context(line_to(comfy_pool[0]["url"]))
        # By name: where it is must be found out also when no event loop is left.
        pool = [{"id": "gpu-1", "url": line.url.replace("127.0.0.1", "localhost")}]

        def start() -> Jupyter:
            config = {"ComfyLock": {"lease_ttl_s": LEASE_S}}
            return stack.enter_context(running_jupyter(pool, folder=tmp_path, config=config))

        first = start()
        tasks, strangers, pids = a_full_house(first, line)
        seconds: list[Jupyter] = []
        logs: list[str] = []

        def end() -> None:
            first.signal(number)
            until(first.ended, within_s=10, what=f"the end of Jupyter after {name}")
            logs.append(first.log())

        def end_and_start_again() -> None:
            end()
            seconds.append(start())

        off_the_queue = {
            "queue": lambda: not queue(line.comfy_url) & set(tasks),
            "sockets": lambda: line.sockets == 0 or bool(seconds),
        }
        known = {
            "lock": lambda: bool(seconds) and not seconds[0].locks(),
            "tasks": lambda: bool(seconds) and all(seconds[0].task(x)["ended_at"] for x in tasks),
        }
        if number == signal.SIGKILL:
            # Nobody is left to release anything but the next Jupyter server.
            within_s = LEASE_S + PROMISED_S
            releases.measure(row, end_and_start_again, off_the_queue | known, within_s=within_s)
        else:
            # SIGINT is Ctrl-C: without a terminal no hook of the extension is called.
            releases.measure(row, end, off_the_queue, within_s=PROMISED_S)
            seconds.append(start())
            # Nobody holds it; that its prompts have left it is seen by the next Jupyter server.
            assert all(lock["state"] == "draining" for lock in seconds[0].locks())
            until(known["tasks"], within_s=PROMISED_S, what="the end of the tasks")
            until(known["lock"], within_s=PROMISED_S, what="a lock that has drained")
        until(lambda: not any(map(psutil.pid_exists, pids)), within_s=10, what="no old kernels")
        log = logs[0] + seconds[0].log()
        assert_cancelled_once(seconds[0], tasks, log)
        for holder_id in {seconds[0].task(each)["holder_id"] for each in tasks}:
            lines = [x for x in log.splitlines() if holder_id in x]
            assert len([x for x in lines if " released gpu-1" in x or " lost gpu-1" in x]) == 1
        until(lambda: ended_well(line.comfy_url, strangers), within_s=10, what="a stranger's end")


def a_full_house(jupyter: Jupyter, line: Line) -> tuple[list[str], str, list[int]]:
    """An idle and a busy kernel with two tasks each; a stranger's prompt; the kernels' pids."""
    idle, busy = jupyter.kernel("idle.ipynb"), jupyter.kernel("busy.ipynb")
    tasks = [begin_endless(kernel) for kernel in (idle, busy)]
    strangers = submit_raw(line.comfy_url, steps_workflow(steps=3, delay=0.05))
    tasks += [begin_endless(kernel) for kernel in (idle, busy)]
    until(lambda: tasks[0] in running(line.comfy_url), within_s=20, what="a running prompt")
    pids = [idle.pid(), busy.pid()]
    busy.begin(BUSY, said="busy")
    assert queue(line.comfy_url) == {*tasks, strangers}
    assert line.sockets == 2
    return tasks, strangers, pids


def begin_endless(kernel: Kernel) -> str:
    kernel.run(START)
    return str(kernel.ask(f"comfy.submit({endless_workflow()!r}).id"))
