"""What is shown under the running cell while it runs."""

from jupyter_comfy_lock.kernel.show import StatusLine


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
