"""A long run of many jobs, through the death of its Jupyter server (R9)."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.kernel import session as sessions
from jupyter_comfy_lock.kernel.connection import Place
from jupyter_comfy_lock.kernel.session import Session
from tests.comfy_servers import test_environment
from tests.e2e.comfy import queue, steps_workflow, submit_raw
from tests.e2e.jupyter import Jupyter, running_jupyter, until
from tests.e2e.sweep import prefix, workflow

pytestmark = pytest.mark.timeout(300)

JOBS = 200


def runs_of_each(url: str) -> Counter[str]:
    """How often the ComfyServer did each job, by its own word."""
    history = httpx.get(f"{url}/history", timeout=30.0).raise_for_status().json()
    prefixes = {prefix(job) for job in range(JOBS)}
    done: Counter[str] = Counter()
    for entry in history.values():
        saves = entry["prompt"][2].get("2", {}).get("inputs", {}).get("filename_prefix")
        if saves in prefixes and entry["status"]["status_str"] == "success":
            done[saves] += 1
    return done


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.complaint(14)
@pytest.mark.complaint(20)
def test_through_the_death_of_the_jupyter_server_each_job_is_done_and_none_twice(
    embedded_pool: Sequence[dict[str, Any]], tmp_path: Path
) -> None:
    url = embedded_pool[0]["url"]
    # The one that is started again is the same to its clients.
    config = {
        "ServerApp": {"port": free_port(), "port_retries": 0},
        "IdentityProvider": {"token": secrets.token_hex(16)},
    }
    with ExitStack() as stack:

        def start() -> Jupyter:
            return stack.enter_context(
                running_jupyter(embedded_pool[:1], folder=tmp_path, config=config)
            )

        first = start()
        with subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.sweep", str(JOBS)],
            stdout=subprocess.PIPE,
            env={
                **test_environment(),
                "COMFY_LOCK_URL": first.server.url,
                "COMFY_LOCK_TOKEN": first.server.token,
            },
            text=True,
        ) as sweep:
            try:
                until(
                    lambda: runs_of_each(url).total() >= JOBS // 4,
                    within_s=60,
                    what="a quarter of the jobs",
                )
                first.signal(signal.SIGKILL)
                until(first.ended, within_s=10, what="the end of the Jupyter server")
                assert runs_of_each(url).total() < JOBS
                second = start()
                said, _ = sweep.communicate(timeout=120)
            finally:
                sweep.kill()
        assert sweep.returncode == 0
        told = json.loads(said)
        assert told["restarts"] == 1
        # None is missing, and none was done twice: neither by what it was told, nor in truth.
        assert {int(job) for job in told["done"]} == set(range(JOBS))
        assert len(set(told["done"].values())) == JOBS
        assert runs_of_each(url) == Counter(prefix(job) for job in range(JOBS))
        assert {task["state"] for task in second.get("tasks")["tasks"]} <= {
            *("succeeded", "cancelled", "rejected", "lost"),
        }


def test_a_sweep_of_two_hundred_never_has_more_in_flight_than_allowed(
    embedded_pool: Sequence[dict[str, Any]], tmp_path: Path
) -> None:
    url = embedded_pool[0]["url"]
    with running_jupyter(embedded_pool[:1], folder=tmp_path) as jupyter:
        place = Place(url=jupyter.server.url, found_by="COMFY_LOCK_URL", token=jupyter.server.token)
        session = Session(place)
        sessions.use(session)
        try:
            comfy.lock("gpu-1")
            # While somebody else's prompt runs, the sweep's own pile up: as far as they may.
            other = submit_raw(url, steps_workflow(steps=30, delay=0.1))
            sweep = comfy.sweep(workflow(0), in_flight=3, seed=range(JOBS), steps=[1])
            most = 0
            while other in (there := queue(url)):
                most = max(most, len(there - {other}))
            sweep.wait(90)
        finally:
            sessions.use(None)
            session.close()
    assert sweep.state == "succeeded"
    assert most == 3
    history = httpx.get(f"{url}/history", timeout=30.0).raise_for_status().json()
    mine = {cell.task_id for cell in sweep.cells}
    seeds = Counter(
        entry["prompt"][2]["1"]["inputs"]["seed"] for key, entry in history.items() if key in mine
    )
    assert seeds == Counter(range(JOBS))
    assert len({cell.task_id for cell in sweep.cells}) == JOBS
