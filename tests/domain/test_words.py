import pytest

from jupyter_comfy_lock.domain.words import LONGEST_NOTE, is_text, one_line


@pytest.mark.parametrize("value", ["", "é", "a.ipynb", "\N{GRINNING FACE}", "\u3000", "x" * 10])
def test_what_people_write_is_text(value):
    assert is_text(value, 10)
    assert one_line(value) == value


@pytest.mark.parametrize("value", ["\0", "a\nb", "\t", "\x1b[2J", "\x7f", "\ud800"])
def test_what_breaks_a_line_or_is_no_character_is_none(value):
    assert not is_text(value, 10)
    assert is_text(one_line(value), 10)


@pytest.mark.parametrize("value", ["x" * 11, 7, None, ["a"], b"a", True])
def test_neither_is_what_is_too_long_or_something_else(value):
    assert not is_text(value, 10)


def test_a_line_is_cut_where_it_would_be_refused():
    assert is_text(one_line("x" * 10_000), LONGEST_NOTE)
