"""How a `%comfy` line is read: words, variables, values, axes."""

from pathlib import PurePosixPath

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.text import DollarFormatter

from jupyter_comfy_lock.kernel.magics.axes import MOST, axis
from jupyter_comfy_lock.kernel.magics.words import Word, from_json, split

NAMES = {"path": "my file.json", "seed": 7, "quote": 'it\'s "so"', "p": PurePosixPath("/a/b c")}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("  run  a.json\t", ["run", "a.json"]),
        ("'a b' \"c d\" e' 'f", ["a b", "c d", "e f"]),
        ("text='it is \"so\"'", ['text=it is "so"']),
        ("'' x=''", ["", "x="]),
        ("a#b # c", ["a#b", "#", "c"]),
        # Variables, as in any magic.
        ("$path x=$seed", ["my file.json", "x=7"]),
        ("x={seed + 1} {path}", ["x=8", "my file.json"]),
        ("$p.name/$seed.", ["$p.name/$seed."]),
        ("$p.name", ["b c"]),
        ("'{seed}'", ["7"]),
        ("'$seed' $$seed", ["$seed", "$seed"]),
        ("{{seed}}", ["{seed}"]),
        ("x=$quote", ['x=it\'s "so"']),
        # What means nothing stays, and hinders no other word.
        ("$nope {nope} '{red|blue} car' $seed", ["$nope", "{nope}", "{red|blue} car", "7"]),
        ("""x='{"a": [1, 2]}'""", ['x={"a": [1, 2]}']),
    ],
)
@pytest.mark.parametrize("windows", [False, True])
def test_a_line_is_split_as_a_shell_does(line, words, windows):
    assert split(line, NAMES, windows=windows) == words


def test_a_backslash_keeps_a_space_but_not_on_windows():
    line = r'my\ file.json "a \" b"'
    assert split(line, windows=False) == ["my file.json", 'a " b']
    line = r'C:\new\table.json "C:\my flows\" D:\x'
    assert split(line, windows=True) == ["C:\\new\\table.json", "C:\\my flows\\", "D:\\x"]


@pytest.mark.parametrize("line", ["'a", 'x="a b', "a\\", "a 'b\" c"])
def test_an_open_quote_is_told(line):
    with pytest.raises(UsageError, match=r"^no (closing quotation|escaped character) in "):
        split(line, windows=False)


@pytest.mark.parametrize("line", ["$seed", "x=$seed", "{seed}", "a{seed}b$seed", "$$seed", "{{x}}"])
def test_words_without_spaces_are_what_ipython_makes_of_them(line):
    """The same as `var_expand`, which IPython does for every magic."""
    assert split(line, NAMES) == [DollarFormatter().vformat(line, (), NAMES)]
    assert hasattr(InteractiveShell, "var_expand")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("7.50", 7.5),
        ("1e3", 1000.0),
        ("true", True),
        ("null", None),
        ('"7"', "7"),
        ("[1, 2]", [1, 2]),
        ('{"a": 1}', {"a": 1}),
        ("euler", "euler"),
        ("", ""),
        ("True", "True"),
        ("{red|blue}", "{red|blue}"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_a_value_is_json_or_text(text, value):
    assert from_json(text) == value
    assert type(from_json(text)) is type(value)


def test_a_name_and_its_value_are_told_apart_at_the_first_equals():
    [word] = split("text='a = b'")
    name, value = word.split_at_equals()
    assert (name, value.read()) == ("text", "a = b")
    assert type(value.read()) is str


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0..7", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("3..3", [3]),
        ("2..-1", [2, 1, 0, -1]),
        ("0..10..5", [0, 5, 10]),
        ("0..9..5", [0, 5]),
        ("8..2..-3", [8, 5, 2]),
        ("0..0.3..0.1", [0.0, 0.1, 0.2, 0.3]),
        ("1..2..0.5", [1.0, 1.5, 2.0]),
        ("-2..-1", [-2, -1]),
        ("4,7", [4, 7]),
        ("4", [4]),
        ("euler, dpmpp_2m", ["euler", "dpmpp_2m"]),
        ("1,true,x", [1, True, "x"]),
        ("[1, 2]", [1, 2]),
        ('["a, b", "0..7"]', ["a, b", "0..7"]),
        ('"a, b"', ["a, b"]),
        ("null", [None]),
        ('{"a": 1}', [{"a": 1}]),
        ("wait..what", ["wait..what"]),
        ("1.5", [1.5]),
    ],
)
def test_an_axis_goes_through_its_values(text, values):
    found = list(axis("x", Word(text, [])))
    assert found == values
    assert [type(each) for each in found] == [type(each) for each in values]


@pytest.mark.parametrize(
    ("given", "values"),
    [(range(3), [0, 1, 2]), ([1, "a"], [1, "a"]), ((1,), [1]), (7, [7]), ("1,2", [1, 2])],
)
def test_the_axis_of_a_variable_is_what_it_holds(given, values):
    [word] = split("x=$axis", {"axis": given})
    assert list(axis("x", word.split_at_equals()[1])) == values


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the axis 'cfg' has no values; it takes FIRST..LAST"),
        ("[]", "the axis 'cfg' has no values"),
        ("4,,7", "the axis 'cfg' has an empty value in '4,,7'"),
        ("0..", "the axis 'cfg': '0..' is no range"),
        ("..7", "the axis 'cfg': '..7' is no range"),
        ("0..x", "the axis 'cfg': '0..x' is no range"),
        ("0..1..2..3", "the axis 'cfg': '0..1..2..3' is no range"),
        ("0..1..0", "the axis 'cfg': '0..1..0' never gets from 0 to 1 by steps of 0"),
        ("0..7..-1", "'0..7..-1' never gets from 0 to 7 by steps of -1"),
        ("0.0..1.0", "'0.0..1.0' needs a step, as in 0.0..1.0..0.5"),
        ("0..1..0.0000001", "the axis 'cfg' has 10,000,001 values; at most 10,000"),
        ("0..99999999999", "has 100,000,000,000 values"),
    ],
)
def test_what_is_no_axis_is_told_by_its_name(text, why):
    with pytest.raises(ValueError, match=why.replace(".", r"\.")):
        axis("cfg", Word(text, []))


def test_the_longest_axis_is_taken():
    assert len(axis("x", Word(f"1..{MOST}", []))) == MOST
    with pytest.raises(ValueError, match="10,001 values"):
        axis("x", Word(f"0..{MOST}", []))
