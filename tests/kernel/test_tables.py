"""Tables, as notebooks, terminals and rich show them."""

import io
import sys

import pytest
from IPython.lib.pretty import pretty
from rich.console import Console
from rich.text import Text

import jupyter_comfy_lock as comfy
from jupyter_comfy_lock.kernel.tables import Listing

WORKFLOW = {"3": {"class_type": "KSampler", "inputs": {"seed": 7, "steps": 20}}}


class Errors(Listing[str]):
    columns = ("error", "why")
    nothing = "No errors."

    def row(self, item):
        return (item, "a long story " * 9)


ERRORS = Errors(["[Errno 2] [bold]no[/bold] file"])


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_ipython_in_a_terminal_shows_a_table_that_fits(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    lines = Text.from_ansi(pretty(ERRORS)).plain.splitlines()
    assert max(map(len, lines)) == 60
    assert len(lines) > 4
    assert pretty(Errors([])) == "No errors."


def test_elsewhere_the_plain_text_has_each_row_on_one_line():
    assert pretty(ERRORS) == repr(ERRORS)
    assert len(repr(ERRORS).splitlines()) == 3


def test_what_looks_like_markup_is_shown_as_it_is():
    console = Console(file=io.StringIO(), width=200)
    console.print(ERRORS)
    assert "[Errno 2] [bold]no[/bold] file" in console.file.getvalue()


@pytest.mark.usefixtures("session")
class TestParameters:
    """`workflow.parameters` is a table, and finds one by node and input."""

    def test_one_is_found_by_its_name(self):
        parameters = comfy.Workflow(WORKFLOW).parameters
        assert parameters["3.seed"].value == 7
        assert parameters[1].name == "steps"
        assert [each.name for each in parameters[:1]] == ["seed"]
        assert parameters._ipython_key_completions_() == ["3.seed", "3.steps"]

    @pytest.mark.parametrize(
        ("name", "why"), [("3.sed", "did you mean '3.seed'"), ("x", "`workflow.parameters` lists")]
    )
    def test_a_wrong_name_is_told(self, name, why):
        with pytest.raises(comfy.InvalidWorkflow, match=why):
            _ = comfy.Workflow(WORKFLOW).parameters[name]


def test_the_status_in_a_notebook_has_the_tasks(session, jupyter):
    comfy.lock("gpu-1")
    task = comfy.submit(WORKFLOW)
    shown = comfy.status()._repr_html_()
    assert "<p>gpu-1 (shared" in shown
    assert f">{task.id}<" in shown
