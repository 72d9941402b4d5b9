"""The demo without a browser: two notebooks on two servers at once, and whether all is as promised.

Each notebook is a session of a real Jupyter server with a real kernel, as in JupyterLab.
"""

import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from jupyter_client.blocking.client import BlockingKernelClient
from rich.console import Console
from rich.table import Table
from tenacity import (
    retry,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_fixed,
)

from jupyter_comfy_lock.demo.stage import Stage, StageError, process, stage

#: Tasks of each notebook.
_TASKS = 4
#: Seconds that starting a kernel, and running the notebook, may take.
_PATIENCE_S = 120
#: Seconds in which a lock must be free when its kernel is gone.
_RELEASED_WITHIN_S = 5.0

#: What each notebook runs. The last line of its output is its report.
_NOTEBOOK = """
import json, time
import jupyter_comfy_lock as comfy

begin = time.time()
comfy.lock({comfy_id!r})
tasks = [
    comfy.submit({{
        "1": {{"class_type": "DemoSampler", "inputs": {{
            "seed": seed, "steps": 8, "width": 256, "height": 160,
            "prompt": "a lighthouse at dusk", "delay": 0.05}}}},
        "2": {{"class_type": "SaveImage", "inputs": {{
            "images": ["1", 0], "filename_prefix": {comfy_id!r}}}}},
    }})
    for seed in range({first_seed}, {first_seed} + {count})
]
pictures = [image for task in tasks for image in task.wait().images]
print(json.dumps({{
    "comfy_id": comfy.locked_server,
    "tasks": [task.id for task in tasks],
    "states": [task.state for task in tasks],
    "seen": [task.id for task in comfy.tasks()],
    "sizes": [image.size for image in pictures],
    "begin": begin, "end": time.time(),
}}))
"""


@dataclass(slots=True)
class Run:
    """One notebook's run."""

    notebook: str
    comfy_id: str
    kernel_id: str
    report: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def run_check() -> int:
    """Run the check, print its table, and return 0 if everything is as promised, else 1.

    Raises:
        StageError: it could not be run at all.
    """
    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="comfy-lock-") as folder,
        stage(Path(folder), ("gpu-1", "gpu-2")) as here,
        _jupyter(here) as jupyter,
    ):
        runs = [
            _session(jupyter, f"notebook_{comfy['id']}.ipynb", comfy["id"]) for comfy in here.pool
        ]
        with ThreadPoolExecutor(len(runs)) as pool:
            list(pool.map(_execute, runs, [here] * len(runs), range(len(runs))))
        faults = [
            *(f"{run.notebook}: {fault}" for run in runs for fault in [*run.faults, *_judge(run)]),
            *_judge_together(runs),
            *_judge_histories(runs, here),
            *_judge_end(runs, jupyter),
        ]
    console.print(_table(runs))
    for fault in faults:
        console.print(f"[red]✗[/] {fault}", highlight=False)
    if not faults:
        console.print(
            "[green]✓[/] Both ran at the same time, each on its own server; all released."
        )
    return 1 if faults else 0


@contextmanager
def _jupyter(here: Stage) -> Iterator[httpx.Client]:
    """Run a Jupyter server and give a client that is its user."""
    here.configure(port=0)
    log = here.directory / "jupyter.log"
    with (
        log.open("w") as output,
        process(
            "jupyter_server",
            "--no-browser",
            env=here.environment(),
            stdout=output,
            stderr=output,
        ) as server,
    ):
        try:
            about = _about(here.runtime, server.pid)
        except Exception as error:
            msg = f"The Jupyter server did not start:\n{log.read_text()[-2000:]}"
            raise StageError(msg) from error
        with httpx.Client(
            base_url=about["url"],
            headers={"Authorization": f"token {about['token']}"},
            timeout=_PATIENCE_S,
        ) as client:
            yield client


@retry(
    retry=retry_if_exception_type((OSError, ValueError)),
    wait=wait_fixed(0.1),
    stop=stop_after_delay(60),
    reraise=True,
)
def _about(runtime: Path, pid: int) -> dict[str, Any]:
    """Return what the Jupyter server wrote of itself when it was ready."""
    about: dict[str, Any] = json.loads((runtime / f"jpserver-{pid}.json").read_text())
    return about


def _session(jupyter: httpx.Client, notebook: str, comfy_id: str) -> Run:
    body = {
        "path": notebook,
        "name": notebook,
        "type": "notebook",
        "kernel": {"name": "python3"},
    }
    answer = jupyter.post("api/sessions", json=body)
    if answer.status_code != httpx.codes.CREATED:
        msg = f"The Jupyter server started no kernel: {answer.text[:500]}"
        raise StageError(msg)
    return Run(notebook, comfy_id, answer.json()["kernel"]["id"])


def _execute(run: Run, here: Stage, number: int) -> None:
    """Run the notebook in its kernel, and note what it reports."""
    client = BlockingKernelClient(
        connection_file=str(here.runtime / f"kernel-{run.kernel_id}.json")
    )
    client.load_connection_file()
    # Without heartbeats: a kernel on a busy machine misses some, and would be taken for dead.
    client.start_channels(hb=False)
    printed: list[str] = []

    def collect(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream" and content["name"] == "stdout":
            printed.append(content["text"])
        elif message["msg_type"] == "error":
            run.faults.append(f"{content['ename']}: {content['evalue']}")

    code = _NOTEBOOK.format(comfy_id=run.comfy_id, first_seed=100 * (number + 1), count=_TASKS)
    try:
        client.wait_for_ready(timeout=_PATIENCE_S)
        client.execute_interactive(code, output_hook=collect, timeout=_PATIENCE_S)
        lines = "".join(printed).strip().splitlines()
        if lines and not run.faults:
            run.report = json.loads(lines[-1])
    except (TimeoutError, RuntimeError, ValueError) as error:
        run.faults.append(f"it did not come to its end: {error}")
    finally:
        client.stop_channels()


def _judge(run: Run) -> list[str]:
    """Return what is wrong with one run by itself."""
    if not run.report:
        return [] if run.faults else ["it reported nothing"]
    report = run.report
    wrong = []
    if report["comfy_id"] != run.comfy_id:
        wrong.append(f"it used {report['comfy_id']} and not {run.comfy_id}")
    if report["states"] != ["succeeded"] * _TASKS:
        wrong.append(f"its tasks ended as {report['states']}")
    if report["sizes"] != [[256, 160]] * _TASKS:
        wrong.append(f"its pictures are {report['sizes']}")
    if sorted(report["seen"]) != sorted(report["tasks"]):
        wrong.append("it sees other tasks than its own")
    return wrong


def _judge_together(runs: list[Run]) -> list[str]:
    reports = [run.report for run in runs if run.report]
    if len(reports) < len(runs):
        return []
    together = max(each["begin"] for each in reports) < min(each["end"] for each in reports)
    return [] if together else ["The notebooks did not run at the same time"]


def _judge_histories(runs: list[Run], here: Stage) -> list[str]:
    """Return what is wrong with where the prompts ran: asked of the servers themselves."""
    wrong = []
    urls = {comfy["id"]: comfy["url"] for comfy in here.pool}
    for run in runs:
        ran = set(httpx.get(f"{urls[run.comfy_id]}/history").json())
        if ran != set(run.report.get("tasks", ())):
            wrong.append(
                f"{run.comfy_id} ran {len(ran)} prompt(s), not just those of {run.notebook}"
            )
    return wrong


def _judge_end(runs: list[Run], jupyter: httpx.Client) -> list[str]:
    """End the kernels and return which locks they leave behind."""
    for run in runs:
        jupyter.delete(f"api/kernels/{run.kernel_id}")
    since = time.monotonic()
    left = _locks(jupyter)
    if left:
        held = ", ".join(lock["comfy_id"] for lock in left)
        return [f"After {time.monotonic() - since:.1f} s without kernels, {held} is still locked"]
    return []


@retry(
    retry=retry_if_result(bool),
    wait=wait_fixed(0.1),
    stop=stop_after_delay(_RELEASED_WITHIN_S),
    retry_error_callback=lambda state: state.outcome.result() if state.outcome else [],
)
def _locks(jupyter: httpx.Client) -> list[dict[str, Any]]:
    locks: list[dict[str, Any]] = jupyter.get("comfy-lock/api/locks").json()["locks"]
    return locks


def _table(runs: list[Run]) -> Table:
    table = Table("notebook", "kernel", "server", "tasks", "pictures", "seconds")
    for run in runs:
        report = run.report
        done = report.get("states", []).count("succeeded")
        seconds = report["end"] - report["begin"] if report else 0.0
        table.add_row(
            run.notebook,
            run.kernel_id[:8],
            report.get("comfy_id", "-"),
            f"{done} of {_TASKS}",
            str(len(report.get("sizes", []))),
            f"{seconds:.1f}",
        )
    return table
