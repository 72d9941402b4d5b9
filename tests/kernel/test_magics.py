"""`%comfy` in an IPython shell."""

import json
import re
from types import SimpleNamespace

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from jupyter_comfy_lock.domain.errors import UnknownComfy
from jupyter_comfy_lock.kernel import magics
from tests.kernel.fake_jupyter import png

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture(scope="module")
def shell():
    # One for all: each shell leaves work for the end of the process.
    made = InteractiveShell.instance()
    made.extension_manager.load_extension("jupyter_comfy_lock")
    yield made
    InteractiveShell.clear_instance()


def run(shell, line):
    return shell.run_line_magic("comfy", line)


def test_lock_status_and_release_are_the_api(shell, capsys):
    assert run(shell, "lock gpu-1").comfy_id == "gpu-1"
    assert run(shell, "status").lock.comfy_id == "gpu-1"
    assert run(shell, "").lock.comfy_id == "gpu-1"
    assert run(shell, "servers")["gpu-1"].mine
    run(shell, "release")
    run(shell, "release")
    assert capsys.readouterr().out == "Released gpu-1.\nNo lock to release.\n"


def test_lock_without_an_id_takes_the_best(shell, capsys):
    assert run(shell, "lock").comfy_id == "gpu-2"
    assert "the best free ComfyServer" in capsys.readouterr().out


def test_an_exclusive_lock_can_be_asked_for(shell):
    assert run(shell, "lock gpu-1 --exclusive").mode == "exclusive"


@pytest.mark.parametrize(("told", "sent"), [("30", 30), ("0.5", 0.5), ("forever", None)])
def test_lock_can_wait(shell, jupyter, told, sent):
    run(shell, f"lock gpu-1 --wait {told}")
    assert jupyter.wishes[0]["wait"] == sent


def test_lock_waits_for_nothing_unless_it_is_told_to(shell, jupyter):
    run(shell, "lock gpu-1")
    assert jupyter.wishes[0]["wait"] == 0


def test_lock_can_choose_by_labels(shell, jupyter):
    run(shell, "lock --label flux --label big")
    assert jupyter.wishes[0]["labels"] == ["flux", "big"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("lock --wait soon", "needs seconds or \"forever\", not 'soon'"),
        ("lock --wait=-3", "wait must be a number of seconds"),
        ("lock gpu-1 --label flux", "'gpu-1' is chosen already"),
        ("pin", "needs the id of a ComfyServer, or 'none'"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(shell, jupyter, line, why):
    with pytest.raises(UsageError, match=why):
        run(shell, line)
    assert jupyter.calls == []


def test_pin_sets_and_none_removes(shell, jupyter, capsys):
    run(shell, "pin gpu-1")
    assert jupyter.pin == "gpu-1"
    run(shell, "pin none")
    assert jupyter.pin is None
    assert capsys.readouterr().out.splitlines()[0].startswith("This notebook is pinned to gpu-1.")


def test_an_error_of_the_api_comes_through(shell):
    with pytest.raises(UnknownComfy, match="gpu-1, gpu-2"):
        run(shell, "lock gpu-9")


def test_an_unknown_command_lists_the_known_ones(shell):
    with pytest.raises(UsageError, match=r"'lokc'\. Known: servers, lock, release, status, run"):
        run(shell, "lokc")


def test_help_tells_the_commands(shell, capsys):
    assert run(shell, "--help") is None
    told = capsys.readouterr().out
    assert all(re.search(rf"%comfy {name}", told) for name in magics.COMMANDS)


def test_run_waits_and_shows_the_pictures(shell, jupyter, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(magics, "display", lambda *images: shown.extend(images))

    def finish(task_id):
        jupyter.add_file(task_id, "a.png", png((4, 3), "red"), "image/png")
        jupyter.change(task_id, state="succeeded")

    jupyter.before_reply = finish
    (tmp_path / "w f.json").write_text(json.dumps({"1": {"class_type": "X", "inputs": {}}}))
    task = run(shell, f"run '{tmp_path / 'w f.json'}'")
    assert task.state == "succeeded"
    assert [image.size for image in shown] == [(4, 3)]


def test_run_without_a_file_says_what_it_needs(shell):
    with pytest.raises(UsageError, match="needs the path"):
        run(shell, "run")


@pytest.mark.parametrize(
    ("line", "symbol", "offered"),
    [
        ("%comfy ", "", list(magics.COMMANDS)),
        ("%comfy lo", "lo", list(magics.COMMANDS)),
        ("%comfy lock ", "", ["gpu-1", "gpu-2"]),
        ("%comfy lock gp", "gp", ["gpu-1", "gpu-2"]),
        ("%comfy lock --", "--", ["--exclusive", "--label", "--wait"]),
        ("%comfy lock gpu-1 --wait ", "", ["forever"]),
        ("%comfy lock --label ", "", ["flux"]),
        ("%comfy lock --label fl", "fl", ["flux"]),
        ("%comfy pin ", "", ["gpu-1", "gpu-2", "none"]),
        ("%comfy run ", "", ["b.json"]),
        ("%comfy release ", "", []),
    ],
)
def test_the_tab_key_offers_commands_comfyservers_and_files(
    line, symbol, offered, tmp_path, monkeypatch
):
    (tmp_path / "b.json").touch()
    monkeypatch.chdir(tmp_path)
    assert magics.complete(None, SimpleNamespace(line=line, symbol=symbol)) == offered


def test_ipython_asks_the_completer(shell):
    with provisionalcompleter():
        offered = {each.text for each in shell.Completer.completions("%comfy lo", 9)}
    assert "lock" in offered
