"""`import jupyter_comfy_lock as comfy`: what a notebook sees."""

import json
import math
import os
import subprocess
import sys
import time
import warnings

import pytest

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.kernel import session as sessions
from jupyter_comfy_lock.kernel.session import Session
from jupyter_comfy_lock.kernel.views import ComfyHolder
from tests.kernel.fake_jupyter import NOW, attached_place

WORKFLOW = {"1": {"class_type": "X", "inputs": {"seed": 7}}}

HEAVY = ("tornado", "jupyter_server", "sqlalchemy", "PIL", "ipywidgets", "anywidget", "IPython")


def loaded_after(code: str) -> set[str]:
    """The heavy modules that a fresh Python has loaded after `code`."""
    tell = f"{code}\nimport sys; print(*(m for m in {HEAVY} if m in sys.modules))"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    ran = subprocess.run(
        [sys.executable, "-c", tell], capture_output=True, text=True, env=environ, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import jupyter_comfy_lock; dir(jupyter_comfy_lock)") == set()


def test_the_errors_cost_nothing_to_catch():
    assert loaded_after("import jupyter_comfy_lock as c; c.TaskFailed, c.ComfyLockError") == set()


def test_the_api_loads_neither_the_server_side_nor_widgets():
    # tenacity loads tornado where it finds it; we do not.
    left = loaded_after("import jupyter_comfy_lock as c; c.submit") - {"tornado"}
    assert left == set()


def test_every_public_name_is_there():
    for name in dir(comfy):
        if name not in ("locked_server", "url"):  # these ask the Jupyter server
            assert getattr(comfy, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lokc'"):
        _ = comfy.lokc


@pytest.mark.usefixtures("session")
class TestLockedServer:
    """`comfy.locked_server` reads and writes this kernel's lock."""

    def test_it_is_none_without_a_lock(self):
        assert comfy.locked_server is None

    def test_assigning_an_id_locks_it(self):
        comfy.locked_server = "gpu-2"
        assert comfy.locked_server == "gpu-2"
        assert comfy.servers()["gpu-2"].mine

    def test_assigning_none_releases(self):
        comfy.locked_server = "gpu-2"
        comfy.locked_server = None
        assert comfy.locked_server is None

    def test_assigning_an_unknown_id_names_the_known_ones(self):
        with pytest.raises(comfy.UnknownComfy, match="gpu-1, gpu-2"):
            comfy.locked_server = "gpu-9"

    @pytest.mark.parametrize("value", [3, True, b"gpu-1", ["gpu-1"]])
    def test_assigning_anything_else_says_what_it_takes(self, value, jupyter):
        wanted = rf"id of a ComfyServer \(a str\) or None, not {type(value).__name__}"
        with pytest.raises(TypeError, match=wanted):
            comfy.locked_server = value
        assert jupyter.calls == []

    def test_a_misspelt_name_cannot_be_assigned_and_names_the_right_one(self, jupyter):
        with pytest.raises(AttributeError, match=r"'lock_server'.*comfy\.locked_server"):
            comfy.lock_server = "gpu-1"
        assert not hasattr(comfy, "lock_server")
        assert jupyter.calls == []

    def test_the_url_cannot_be_assigned(self):
        with pytest.raises(AttributeError, match=r"comfy\.url is read-only"):
            comfy.url = "http://127.0.0.1:8188"


def test_what_the_module_has_can_be_replaced_and_put_back(monkeypatch):
    monkeypatch.setattr(comfy, "submit", len)
    assert comfy.submit("abc") == 3
    monkeypatch.undo()
    assert comfy.submit is not len


def test_the_import_system_can_set_submodules_and_reload_the_package():
    code = """
import warnings; warnings.simplefilter("error")
import importlib, types, jupyter_comfy_lock as comfy
import jupyter_comfy_lock.kernel.views, jupyter_comfy_lock.domain.errors
assert isinstance(comfy.kernel, types.ModuleType) and isinstance(comfy.domain, types.ModuleType)
assert importlib.reload(comfy) is comfy
"""
    assert loaded_after(code) == set()


@pytest.mark.usefixtures("session")
class TestLock:
    """`comfy.lock` says what it chose, and only then."""

    def test_naming_one_prints_nothing(self, capsys):
        assert repr(comfy.lock("gpu-1")) == "Lock(gpu-1, shared)"
        assert capsys.readouterr().out == ""

    def test_naming_none_takes_the_best_and_says_so(self, capsys):
        assert comfy.lock().comfy_id == "gpu-2"
        assert capsys.readouterr().out == "Locked gpu-2, the best free ComfyServer.\n"

    def test_naming_none_takes_the_pin_and_says_so(self, jupyter, capsys):
        jupyter.pin = "gpu-1"
        comfy.lock()
        assert capsys.readouterr().out == "Locked gpu-1, which this notebook is pinned to.\n"

    def test_naming_none_again_says_that_it_is_locked_already(self, capsys):
        comfy.lock()
        comfy.lock()
        assert capsys.readouterr().out.splitlines()[1] == "gpu-2 is locked already."

    def test_a_lock_that_becomes_exclusive_says_what_it_was(self, capsys):
        comfy.lock()
        comfy.lock(mode="exclusive")
        assert capsys.readouterr().out.splitlines()[1] == (
            "Locked gpu-2 exclusively, the best free ComfyServer; it was shared before."
        )

    @pytest.mark.parametrize(("many", "said"), [(1, "1 prompt of"), (3, "3 prompts of")])
    def test_prompts_of_others_in_the_queue_are_told(self, jupyter, capsys, many, said):
        jupyter.foreign_prompts = many
        assert comfy.lock("gpu-1", mode="exclusive").foreign_prompts == many
        told = f"Locked gpu-1 exclusively. {said} others are in its queue.\n"
        assert capsys.readouterr().out == told


class TestPin:
    """`comfy.pin` says what is preferred, and for how long that is kept."""

    @pytest.fixture
    def opened(self, monkeypatch):
        """What was told to the browser."""
        opened = []

        class Comm:
            def close(self):
                opened.append("closed")

        def create_comm(*, target_name, data):
            opened.append((target_name, data))
            return Comm()

        monkeypatch.setattr("comm.create_comm", create_comm)
        return opened

    def test_a_notebook_keeps_its_pin_when_it_is_saved(self, session, jupyter, opened, capsys):
        comfy.pin("gpu-1")
        assert jupyter.pin == "gpu-1"
        assert opened == [("jupyter_comfy_lock:pin", {"pin": "gpu-1"}), "closed"]
        assert capsys.readouterr().out == (
            "This notebook is pinned to gpu-1. "
            "That is kept with the notebook when the notebook is saved.\n"
        )

    def test_none_removes_the_pin(self, session, jupyter, opened, capsys):
        comfy.pin("gpu-1")
        comfy.pin(None)
        assert jupyter.pin is None
        assert opened[2] == ("jupyter_comfy_lock:pin", {"pin": None})
        assert "is pinned to no ComfyServer. That" in capsys.readouterr().out

    def test_locking_without_an_id_takes_the_pin(self, session, opened):
        comfy.pin("gpu-1")
        assert comfy.lock().chosen_by == "pin"

    def test_a_process_keeps_its_pin_until_it_ends(self, jupyter, opened, capsys):
        made = Session(attached_place(), transport=jupyter.transport)
        sessions.use(made)
        try:
            comfy.pin("gpu-1")
        finally:
            sessions.use(None)
            made.close()
        assert opened == []
        assert capsys.readouterr().out == (
            "This process is pinned to gpu-1. That is kept until the process ends.\n"
        )

    def test_an_unknown_comfyserver_is_refused_and_nothing_is_told(self, session, opened, capsys):
        with pytest.raises(comfy.UnknownComfy, match="gpu-1, gpu-2"):
            comfy.pin("gpu-9")
        assert (opened, capsys.readouterr().out) == ([], "")

    @pytest.mark.parametrize("no_id", [3, True, ["gpu-1"]])
    def test_what_is_no_id_is_refused_before_anything_is_sent(self, session, jupyter, no_id):
        with pytest.raises(TypeError, match="is text or None"):
            comfy.pin(no_id)
        assert jupyter.calls == []

    def test_without_comms_nothing_fails(self, session, monkeypatch):
        monkeypatch.setitem(sys.modules, "comm", None)
        comfy.pin("gpu-1")

    def test_where_no_front_end_listens_nothing_fails(self, session):
        comfy.pin("gpu-1")


class TestServers:
    """`comfy.servers()` shows the pool."""

    @pytest.fixture
    def servers(self, session):
        session.lock("gpu-1")
        return comfy.servers()

    def test_it_is_a_list_that_also_knows_ids(self, servers):
        assert [each.comfy_id for each in servers] == ["gpu-1", "gpu-2"]
        assert servers["gpu-2"] is servers[1]
        with pytest.raises(comfy.UnknownComfy, match="gpu-1, gpu-2"):
            _ = servers["gpu-3"]

    def test_the_plain_text_tells_health_version_queue_room_and_holders(self, servers):
        first = repr(servers).splitlines()[2]
        for fact in ("●", "gpu-1", "ok", "0.33.0", "8.0 GiB", "3/4", "a.ipynb ("):
            assert fact in first

    def test_a_holder_without_a_name_is_shown_by_the_start_of_its_id(self):
        holder = ComfyHolder(
            holder_id="attached-f6ac29d5-e9c0-41fa-bd31-568f54696fac.1",
            name="",
            mode="exclusive",
            since=time.time(),
        )
        assert str(holder) == "attached-f6ac29d5….1 (0 s, exclusively)"

    def test_who_waits_is_shown_in_the_order_of_the_turns(self, jupyter):
        now = time.time()
        jupyter.facts["gpu-1"] = {
            "waiting": [
                {"holder_id": "k", "name": n, "mode": m, "since": now, "place": p}
                for p, n, m in ((1, "b.ipynb", "exclusive"), (2, "c.ipynb", "shared"))
            ]
        }
        found = comfy.servers()
        assert "1. b.ipynb (0 s, exclusively), 2. c.ipynb (0 s)" in repr(found)
        assert [each.place for each in found["gpu-1"].waiting] == [1, 2]

    def test_a_holder_that_let_go_and_whose_prompts_go_on_is_shown_as_draining(self, jupyter):
        holder = {"holder_id": "k", "name": "b.ipynb", "mode": "exclusive", "since": time.time()}
        jupyter.facts["gpu-2"] = {"holders": [{**holder, "state": "draining"}]}
        assert "b.ipynb (0 s, exclusively, draining)" in repr(comfy.servers())

    def test_a_comfyserver_that_is_closed_says_by_whom_and_why_and_has_no_room(self, jupyter):
        jupyter.facts["gpu-2"] = {
            "state": "disabled",
            "state_by": "ann",
            "state_why": "new driver",
            "state_since": time.time() - 300,
        }
        closed = comfy.servers()["gpu-2"]
        assert closed.standing == "ok; disabled by ann (5 min): new driver"
        assert closed.free == 0
        assert closed.standing in repr(comfy.servers())

    def test_an_older_server_tells_neither_states_nor_lines(self, servers):
        assert (servers[0].state, servers[0].waiting) == ("open", ())

    def test_the_html_is_escaped(self, servers):
        assert "cuda:0 &lt;A100&gt;" in servers._repr_html_()

    def test_rich_draws_the_same_table(self, servers):
        assert servers.__rich__().row_count == 2

    def test_an_empty_pool_says_what_to_set(self, jupyter):
        jupyter.pool = []
        assert "c.ComfyLock.pool" in repr(comfy.servers())

    @pytest.fixture(autouse=True)
    def _session(self, session):
        return session


@pytest.mark.usefixtures("session")
class TestSubmit:
    """`comfy.submit` takes what people have, and says plainly what is wrong with it."""

    @pytest.mark.parametrize("form", ["mapping", "json", "path", "text path"])
    def test_a_workflow_may_be_a_mapping_json_or_a_file(self, form, tmp_path, jupyter):
        path = tmp_path / "workflow.json"
        path.write_text(json.dumps(WORKFLOW))
        forms = {"mapping": WORKFLOW, "json": json.dumps(WORKFLOW), "path": path}
        task = comfy.submit(forms.get(form, str(path)))
        assert task.id in jupyter.tasks

    def test_without_a_lock_the_best_one_is_taken_and_named(self, capsys):
        assert comfy.submit(WORKFLOW).comfy_id == "gpu-2"
        assert capsys.readouterr().out == "Locked gpu-2, the best free ComfyServer.\n"

    def test_with_a_lock_nothing_is_printed(self, capsys):
        comfy.lock("gpu-1")
        comfy.submit(WORKFLOW)
        assert capsys.readouterr().out == ""

    @pytest.mark.parametrize(
        ("workflow", "why"),
        [
            ({}, "empty"),
            (7, "got int"),
            ([WORKFLOW], "got list"),
            ("{", "not JSON: line 1"),
            ("nowhere.json", "Cannot read the workflow 'nowhere.json'.*No such file"),
            ({"1": {"inputs": {}}}, "node 1: has no class_type"),
            ({"nodes": [], "links": []}, "empty: it has no nodes"),
            ({"nodes": [{"id": 1}]}, "no id or no type"),
            ({"1": {"class_type": "X", "inputs": {"a": ["2", 0]}}}, "node '2', which does not"),
            ({"1": {"class_type": "X", "inputs": {"a": math.nan}}}, r"node 1\.a: float"),
            ({"1": {"class_type": "X", "inputs": {"a": object()}}}, r"node 1\.a: object"),
        ],
    )
    def test_what_is_no_workflow_is_refused_before_anything_is_sent(self, workflow, why, jupyter):
        with pytest.raises(comfy.InvalidWorkflow, match=why):
            comfy.submit(workflow)
        assert jupyter.calls == []

    def test_a_refused_prompt_tells_what_the_comfyserver_said(self, jupyter):
        comfy.lock("gpu-1")
        jupyter.refuse = comfy.PromptRejected("node 1 (X), input 'seed': too big")
        with pytest.raises(comfy.PromptRejected, match="'seed': too big"):
            comfy.submit(WORKFLOW)

    def test_outputs_that_comfyui_dropped_are_named(self, jupyter):
        error = {"message": "Value too big", "extra_info": {"input_name": "seed"}}
        jupyter.dropped = {"9": {"class_type": "SaveImage", "errors": [error]}}
        with pytest.warns(comfy.OutputsDropped, match=r"node 9 \(SaveImage\), input 'seed'"):
            comfy.submit(WORKFLOW)

    def test_nothing_is_warned_of_when_nothing_was_dropped(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            comfy.submit(WORKFLOW)


def test_status_tells_who_this_is_and_what_it_holds(session):
    session.lock("gpu-1")
    comfy.submit(WORKFLOW)
    shown = repr(comfy.status())
    for fact in ("gpu-1 (shared", "a.ipynb", "http://jupyter.test/base/", "1 task(s), 1 pending"):
        assert fact in shown


@pytest.mark.complaint(10)
def test_status_tells_that_comfyui_was_restarted_under_the_lock(jupyter, session):
    session.lock("gpu-1")
    assert "restarted" not in repr(comfy.status())
    jupyter.lock["restarted_at"] = time.time() - 30
    assert "gpu-1 (shared, " in repr(comfy.status())
    assert "; ComfyUI was restarted 30 s ago)" in repr(comfy.status())


def test_the_table_of_tasks_names_each_end(jupyter, session):
    task = comfy.submit(WORKFLOW)
    jupyter.change(task.id, state="failed", reason=None, started_at=NOW, ended_at=NOW + 1.5)
    jupyter.tasks[task.id]["error"] = {"exception_type": "ValueError", "message": "boom\nmore"}
    line = repr(comfy.tasks()).splitlines()[2]
    assert line.split() == [task.id, "gpu-2", "failed", "1.5", "0", "ValueError:", "boom", "more"]


def test_without_a_jupyter_server_every_way_out_is_named(monkeypatch, tmp_path):
    for name in ("COMFY_LOCK_URL", "JPY_PARENT_PID", "JUPYTERHUB_SERVICE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(comfy.NoServerExtension, match="COMFY_LOCK_URL and COMFY_LOCK_TOKEN"):
        comfy.servers()
