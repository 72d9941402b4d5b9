"""Where a traceback of `%comfy` and `%%comfy` ends: at the user's own line."""

import re

import pytest

from tests.kernel.cells import Cells, shown_lines

pytestmark = pytest.mark.usefixtures("session")


@pytest.fixture
def cells():
    made = Cells()
    made.shell.extension_manager.load_extension("jupyter_comfy_lock")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("code", "line", "number"),
    [
        ("%%comfy submit\n\nx = 1\nx / 0", "x / 0", 4),
        ("%%comfy submit\ncomfy.lock('gpu-9')", "comfy.lock('gpu-9')", 2),
        ("%%comfy submit\ndef f():\n    return x_\nf()", "return x_", 3),
    ],
)
def test_an_error_of_the_cells_code_ends_at_its_own_line(cells, code, line, number):
    cells.shell.run_cell("1", store_history=True)
    shown = cells.traceback(code, numbered=True)
    assert set(re.findall(r"Cell (In\[.\])", shown)) == {"In[2]"}
    assert shown_lines(shown)[-1].strip() == line
    assert f"> {number} " in shown
    assert "jupyter_comfy_lock/kernel" not in shown


@pytest.mark.parametrize(
    "code", ["1\n%comfy lock gpu-9", "%%comfy submit\n5", "1\n%comfy submit nowhere.json"]
)
def test_an_error_of_the_api_ends_at_the_magic(cells, code):
    shown = cells.traceback(code)
    [line] = shown_lines(shown)
    assert line.startswith("get_ipython().run_")
    assert "jupyter_comfy_lock/kernel" not in shown
