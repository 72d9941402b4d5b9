"""Saving what a task has made: the names are the user's, and nothing is overwritten."""

from datetime import datetime

import pytest

from jupyter_comfy_lock.kernel.results import texts_of
from jupyter_comfy_lock.kernel.saving import NotSaved, simple_values
from jupyter_comfy_lock.kernel.task import TaskNotEnded
from tests.kernel.fake_jupyter import NOW

PROMPT = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 7, "cfg": 4.5, "text": "a/b " * 50}},
    "9": {
        "class_type": "SaveImage",
        "inputs": {"images": ["3", 0]},
        "_meta": {"title": "My save"},
    },
    "10": {"class_type": "Other", "inputs": {"cfg": 2, "size": [1, 2, 3], "on": None}},
}


@pytest.fixture
def done(jupyter, session):
    """Makes a task that has ended with these files."""

    def make(*names, **more):
        session.lock("gpu-1")
        task = session.submit(PROMPT, on_lock=lambda _: None)
        for number, name in enumerate(names):
            jupyter.add_file(task.id, name, f"{number}: {name}".encode(), "image/png")
        jupyter.change(task.id, **{"state": "succeeded", "ended_at": NOW, **more})
        list(task.events(20))
        return task

    return make


def names(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_the_names_are_comfyuis_unless_a_template_says_otherwise(done, tmp_path):
    task = done("a_00001_.png", "b_00001_.png")
    assert names(task.save(folder=tmp_path), tmp_path) == ["a_00001_.png", "b_00001_.png"]
    assert (tmp_path / "b_00001_.png").read_text() == "1: b_00001_.png"
    assert names(task.result().save(folder=tmp_path), tmp_path) == ["a_00001_.png", "b_00001_.png"]


DATE = datetime.fromtimestamp(NOW)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{filename}", "a_1.png"),
        ("{stem}-{n:03}.{ext}", "a_1-001.png"),
        ("{comfy_id}/{node}/{node_id}.{ext}", "gpu-1/My save/9.png"),
        ("{date}/{date:%H%M}.png", f"{DATE:%Y-%m-%d}/{DATE:%H%M}.png"),
        ("{seed:05}_{3.cfg}_{10.cfg}", "00007_4.5_2.png"),
        ("picture", "picture.png"),
        ("picture.v2", "picture.v2"),
        ("{{{seed}}}.png", "{7}.png"),
        ("{text:.7}.png", "a_b a_b.png"),
        ("{date:%H:%M}.png", f"{DATE:%H_%M}.png"),
    ],
)
def test_the_fields_of_a_template(done, tmp_path, template, name):
    assert names(done("a_1.png").save(template, tmp_path), tmp_path) == [name]
    assert (tmp_path / name).read_text() == "0: a_1.png"


def test_the_id_of_the_task_is_a_field(done, tmp_path):
    task = done("a.png")
    assert names(task.save("{task_id}.png", tmp_path), tmp_path) == [f"{task.id}.png"]


@pytest.mark.parametrize("field", ["nope", "0", "", "task_id.__class__", "filename[0]", "cfg"])
def test_another_field_is_refused_and_the_known_ones_are_named(done, tmp_path, field):
    with pytest.raises(NotSaved, match=r"There are: .*\{seed\}.*\{filename\}.*\{node_id\}") as bad:
        done("a.png").save(f"{{{field}}}.png", tmp_path)
    assert "Nothing was written" in bad.value.message
    assert list(tmp_path.iterdir()) == []


def test_of_a_task_from_elsewhere_no_values_are_known_and_that_is_said(done, tmp_path):
    task = done("a.png")
    task._prompt = None
    with pytest.raises(NotSaved, match="known where it was submitted"):
        task.save("{seed}.png", tmp_path)
    assert names(task.save("{node}.png", tmp_path), tmp_path) == ["node_9.png"]


@pytest.mark.parametrize("template", ["{seed", "}", "{seed:x.y}", "{seed!z}"])
def test_a_template_that_is_none_says_why(done, tmp_path, template):
    with pytest.raises(NotSaved, match=r"cannot be filled in: .*Nothing was written"):
        done("a.png").save(template, tmp_path)


@pytest.mark.parametrize("template", ["", " ", None, 7])
def test_a_template_is_text(done, tmp_path, template):
    with pytest.raises(TypeError, match="the template must be text"):
        done("a.png").save(template, tmp_path)


@pytest.mark.parametrize(
    ("chosen", "name"),
    [
        ("../../evil.png", "evil.png"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\evil.png", "evil.png"),
        ("C:\\evil.png", "evil.png"),
        ("..", "__"),
        (".", "_"),
        ("", "_"),
        ("a/", "_"),
        (".bashrc", "_bashrc"),
        ("a\0b\n.png", "a_b_.png"),
        ('con:"<>|?*.png', "con_______.png"),
        ("trailing. .", "trailing"),
    ],
)
def test_a_name_that_the_comfyserver_chose_never_leaves_the_folder(done, tmp_path, chosen, name):
    folder = tmp_path / "in" / "here"
    assert names(done(chosen).save(folder=folder), folder) == [name]
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [folder / name]


@pytest.mark.parametrize("template", ["{stem}{stem}", "{filename}/x.png", "{ext}.{ext}/x.png"])
def test_a_name_is_no_way_out_in_any_place_of_the_template(done, tmp_path, template):
    folder = tmp_path / "in"
    for path in done("..", ".", "x...").save(template, folder):
        assert path.resolve().is_relative_to(folder.resolve())


def test_another_file_of_that_name_is_left_alone_and_nothing_is_written(done, tmp_path):
    (tmp_path / "b.png").write_text("mine")
    with pytest.raises(NotSaved, match=r"b\.png exists already.*\{task_id\}"):
        done("a.png", "b.png").save(folder=tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["b.png"]
    assert (tmp_path / "b.png").read_text() == "mine"


def test_a_folder_of_that_name_is_left_alone_too(done, tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(NotSaved, match="exists already"):
        done("a.png").save(folder=tmp_path)


def test_what_is_there_already_with_the_same_bytes_is_not_written_again(done, tmp_path):
    task = done("a.png")
    [there] = task.save(folder=tmp_path)
    there.chmod(0o444)
    before = there.stat().st_mtime_ns
    assert task.save(folder=tmp_path) == [there]
    assert there.stat().st_mtime_ns == before


def test_two_of_one_name_are_both_there(done, tmp_path):
    paths = done("a.png", "A.png", "a.png").save(folder=tmp_path)
    assert names(paths, tmp_path) == ["a.png", "A (2).png", "a (3).png"]
    assert [each.read_text()[0] for each in paths] == ["0", "1", "2"]


def test_what_cannot_be_written_says_why(done, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NotSaved, match=r"Cannot write .*The task still has it"):
        done("a.png").save(folder=tmp_path / "file")


def test_texts_are_results_and_are_saved(done, tmp_path):
    outputs = {"5": {"text": ["one"]}, "6": {"text": ["two", "three"], "animated": [True]}}
    task = done("a.png", outputs=outputs)
    assert task.result().texts == ["one", "two", "three"]
    assert names(task.save(folder=tmp_path), tmp_path) == [
        "a.png",
        "text_5.txt",
        "text_6_1.txt",
        "text_6_2.txt",
    ]
    assert (tmp_path / "text_6_2.txt").read_text() == "three"
    assert repr(task.result()) == "Result(gpu-1, 1 picture, 3 texts)"


def test_outputs_of_any_shape_hold_texts_or_none():
    assert texts_of({"1": None, "2": {"a": "x", "b": [1, None, {"c": "d"}]}, "3": []}) == []


def test_a_task_that_goes_on_has_nothing_to_save(task, tmp_path):
    with pytest.raises(TaskNotEnded, match=r"Wait for it first: task\.wait\(\)"):
        task.save(folder=tmp_path)


def test_what_a_failed_task_has_made_before_can_be_saved(done, tmp_path):
    task = done("a.png", state="failed", reason="boom")
    assert names(task.save(folder=tmp_path), tmp_path) == ["a.png"]


def test_values_that_one_node_has_go_by_their_name():
    values = simple_values(PROMPT)
    assert (values["seed"], values["3.seed"], values["10.cfg"]) == (7, 7, 2)
    assert not {"cfg", "images", "size", "on"} & set(values)
    assert len(values["text"]) == 80
    assert simple_values({"1": None, "2": {"inputs": None}}) == {}
