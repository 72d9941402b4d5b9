import pytest

from jupyter_comfy_lock.domain.desk import Desk, DeskFile


def test_what_was_set_last_counts():
    desk = Desk()
    assert desk.set({"a": 1, "b": [True]})
    assert desk.set({"a": 2})
    assert desk.settings == {"a": 2, "b": [True]}


def test_a_file_keeps_the_time_at_which_it_was_new():
    desk = Desk()
    desk.write("workflows/a.json", b"{}", now=1.0)
    desk.write("workflows/a.json", b"[]", now=2.0)
    assert desk.file("workflows/a.json") == DeskFile(b"[]", created=1.0, modified=2.0)


def test_a_moved_file_is_where_it_was_moved_to_and_what_was_there_is_gone():
    desk = Desk()
    desk.write("a", b"1", now=1.0)
    desk.write("b", b"2", now=1.0)
    desk.move("a", "b")
    assert desk.below("").keys() == {"b"}
    assert desk.file("b") == DeskFile(b"1", created=1.0, modified=1.0)
    assert desk.delete("b")
    assert not desk.delete("b")


@pytest.mark.parametrize(
    ("folder", "found"),
    [
        ("workflows", ["a.json", "deep/b.json"]),
        ("workflows/", ["a.json", "deep/b.json"]),
        ("workflows/deep", ["b.json"]),
        ("work", []),
        ("", ["top", "workflows/a.json", "workflows/deep/b.json"]),
    ],
)
def test_files_are_found_below_their_folder(folder, found):
    desk = Desk()
    for name in ("workflows/deep/b.json", "top", "workflows/a.json"):
        desk.write(name, b"", now=1.0)
    assert list(desk.below(folder)) == found


def test_what_has_no_room_changes_nothing():
    desk = Desk(max_bytes=20)
    assert desk.write("a", b"x" * 10, now=1.0)
    assert not desk.write("b", b"x" * 10, now=1.0)
    assert not desk.write("a", b"x" * 20, now=1.0)
    assert not desk.set({"key": "much"})
    assert desk.write("a", b"y" * 15, now=2.0)
    assert desk.below("") == {"a": DeskFile(b"y" * 15, created=1.0, modified=2.0)}
    assert desk.settings == {}
