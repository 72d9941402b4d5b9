"""What is shown under the running cell while it runs."""

from types import SimpleNamespace

import pytest
from IPython.core import interactiveshell

from jupyter_comfy_lock.kernel import show
from jupyter_comfy_lock.kernel.show import StatusLine


@pytest.fixture
def published(monkeypatch):
    """What an IPython kernel sends to its front end: each text, and what it replaces."""
    sent = []

    def publish(*, data, metadata=None, transient=None, update=False, **_):
        sent.append((data, (transient or {}).get("display_id"), update))

    pub = SimpleNamespace(publish=publish)
    shell = SimpleNamespace(kernel=object(), display_pub=pub)
    monkeypatch.setattr(show, "_shell", lambda: shell)
    monkeypatch.setattr(
        interactiveshell.InteractiveShell, "initialized", classmethod(lambda cls: True)
    )
    monkeypatch.setattr(
        interactiveshell.InteractiveShell, "instance", classmethod(lambda cls: shell)
    )
    return sent


def test_in_a_kernel_one_line_changes_in_place(published, capsys):
    line = StatusLine()
    for text in ("you are 2nd", "you are 1st", "you are 1st"):
        line.show(text)
    (first, id_1, is_update_1), (second, id_2, is_update_2) = published
    assert (first, second) == ({"text/plain": "you are 2nd"}, {"text/plain": "you are 1st"})
    assert id_1 == id_2
    assert (is_update_1, is_update_2) == (False, True)
    assert capsys.readouterr().out == ""


def test_elsewhere_each_change_is_a_line(capsys):
    line = StatusLine()
    for text in ("you are 2nd", "you are 1st", "you are 1st"):
        line.show(text)
    assert capsys.readouterr().out == "you are 2nd\nyou are 1st\n"
