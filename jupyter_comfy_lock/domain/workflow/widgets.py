"""The fields of a node in ComfyUI's editor: which there are, and which saved value is whose.

The editor saves the values of a node's fields as a bare list. What stands where follows from the
class and from what the editor itself adds: a field after a seed that says what becomes of it,
upload buttons, the fields of whatever a dynamic combo has chosen.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jupyter_comfy_lock.domain.comfy import items
from jupyter_comfy_lock.domain.workflow.nodes import (
    COMBO,
    DYNAMIC_COMBO,
    InputSpec,
    NodeSpec,
    chosen_inputs,
)

#: Chooses one of so many; the editor's is chance.
Choose = Callable[[int], int]

#: The one class whose fields are more than its inputs.
CUSTOM_COMBO = "CustomCombo"

_OPTION = re.compile(r"option\d+")
_SEEDS = frozenset({"seed", "noise_seed"})
_AUDIO_PLAYERS = frozenset(
    {
        *("LoadAudio", "SaveAudio", "PreviewAudio", "SaveAudioMP3", "SaveAudioOpus"),
        "SaveAudioAdvanced",
    }
)
#: Fields that only show something: a place in the list, but no part of the prompt.
_SHOWN_ONLY = frozenset({"IMAGEUPLOAD", "AUDIOUPLOAD", "AUDIO_UI", "RESOLUTION_PREVIEW"})
#: Fields that have not even a place in the list.
_UNSAVED = frozenset({"AUDIO_UI", "IMAGECOMPARE", "RESOLUTION_PREVIEW"})
#: Fields that the editor adds to a class's definition.
_UPLOADERS = frozenset({"IMAGEUPLOAD", "AUDIO_UI", "AUDIOUPLOAD"})
_LOAD_3D_BUTTONS = ("upload 3d model", "upload extra resources", "clear")
_COMMENT = re.compile(r"/\*[\s\S]*?\*/|//.*")
_ESCAPED = re.compile(r"\\([{}|])")


@dataclass(frozen=True, slots=True)
class Widget:
    """One field of a node."""

    name: str
    spec: InputSpec
    #: Whether its value has a place among those saved, and whether it is part of the prompt.
    saved: bool = True
    sent: bool = True


@dataclass(frozen=True, slots=True)
class Field:
    """A field and its value."""

    widget: Widget
    value: Any


def restored(node: NodeSpec, saved: object) -> list[Field]:
    """Return the fields of a node of this class, with the values that were saved."""
    if isinstance(saved, Mapping):
        take = _by_name(saved)
    else:
        take = _by_place(_without_dummies(node, items(saved)))
    found = list(_fill(_widgets(node), take))
    return found + list(_options_of_custom_combo(take)) if node.name == CUSTOM_COMBO else found


def resolve_choices(text: str, choose: Choose) -> str:
    """Return `text` as the editor sends it: one of each `{a|b}`, and no comments."""
    text = _COMMENT.sub("", text)
    out, at = [], 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            out.append(text[at : at + 2])
            at += 2
        elif char == "{":
            options, at = _options(text, at + 1)
            out.append(resolve_choices(options[choose(len(options))], choose))
        else:
            out.append(char)
            at += 1
    return _ESCAPED.sub(r"\1", "".join(out))


def chosen_option(inputs: Mapping[str, Any]) -> int:
    """Return which of its options a custom combo has chosen, -1 for none."""
    options = [value for name, value in inputs.items() if _OPTION.fullmatch(name)]
    choice = inputs.get("choice")
    return options.index(choice) if choice in options else -1


Take = Callable[[Widget], tuple[bool, Any]]


def _options_of_custom_combo(take: Take) -> Iterator[Field]:
    """The options are fields as well: as many as are filled in, and an empty one."""
    index = Widget("index", InputSpec("index", "INT"))
    yield Field(index, take(index)[1])
    number, value = 0, "one more"
    while value:
        number += 1
        option = Widget(f"option{number}", InputSpec(f"option{number}", "STRING"))
        value = take(option)[1] or ""
        yield Field(option, value)


def _fill(widgets: Iterator[Widget], take: Take) -> Iterator[Field]:
    for widget in widgets:
        found, value = take(widget) if widget.saved else (False, None)
        if not found:
            value = widget.spec.default
        if widget.spec.type == COMBO and value is None and widget.spec.choices:
            value = widget.spec.choices[0]
        yield Field(widget, value)
        if widget.spec.type == DYNAMIC_COMBO:
            inner = chosen_inputs(widget.spec, value)
            yield from _fill(_widgets_of(inner), take)


def _by_name(saved: Mapping[str, Any]) -> Take:
    return lambda widget: (widget.name in saved, saved.get(widget.name))


def _by_place(saved: list[Any]) -> Take:
    left = iter(saved)
    end = object()

    def take(_: Widget) -> tuple[bool, Any]:
        value = next(left, end)
        return (False, None) if value is end else (True, value)

    return take


def _widgets(node: NodeSpec) -> Iterator[Widget]:
    yield from _widgets_of(node.inputs)
    # What the editor adds to the definition itself comes last.
    if any(each.upload in ("image", "video") and each.required for each in node.inputs):
        yield _added("upload", "IMAGEUPLOAD")
    if node.name in _AUDIO_PLAYERS:
        yield _added("audioUI", "AUDIO_UI")
    audio = node.by_name.get("audio")
    if audio is not None and audio.upload == "audio" and audio.required:
        yield _added("upload", "AUDIOUPLOAD")


def _widgets_of(inputs: Sequence[InputSpec]) -> Iterator[Widget]:
    for spec in inputs:
        if not spec.is_widget:
            continue
        if spec.type == "LOAD_3D" and any(each.name == "model_file" for each in inputs):
            yield from (_added(name, "STRING") for name in _LOAD_3D_BUTTONS)
        yield Widget(
            spec.name,
            spec,
            saved=spec.type not in _UNSAVED,
            sent=spec.type not in _SHOWN_ONLY,
        )
        yield from (_added(name, "STRING") for name in _controls(spec))


def _controls(spec: InputSpec) -> list[str]:
    """Return the fields that say what becomes of a value after each run."""
    control = spec.options.get("control_after_generate")
    name = control if isinstance(control, str) else "control_after_generate"
    if spec.type == "INT" and (spec.name in _SEEDS if control is None else control):
        return [name]
    if spec.type == "FLOAT" and control:
        return [name]
    if spec.type == COMBO and control:
        return [name, "control_filter_list"]
    return []


def _added(name: str, kind: str) -> Widget:
    return Widget(name, InputSpec(name, kind), saved=kind not in _UNSAVED, sent=False)


def _without_dummies(node: NodeSpec, saved: list[Any]) -> list[Any]:
    """Return the values without those of linked-only inputs, which old editors saved as well."""
    dummies: list[bool] = []
    names = {widget.name for widget in _widgets(node)}
    for spec in node.told:
        forced = bool(spec.options.get("forceInput"))
        if forced or spec.name in names:
            dummies.append(forced)
            if spec.options.get("control_after_generate"):
                dummies.append(False)
    dummies += [False for each in _widgets(node) if each.spec.type in _UPLOADERS]
    if len(dummies) != len(saved):
        return saved
    return [value for value, dummy in zip(saved, dummies, strict=True) if not dummy]


def _options(text: str, at: int) -> tuple[list[str], int]:
    """Return what can be chosen in the braces that are open at `at`, and where they end."""
    options, depth = [""], 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "\\":
            char += text[at : at + 1]
            at += 1
        elif char == "{":
            depth += 1
        elif char == "}":
            if not depth:
                break
            depth -= 1
        elif char == "|" and not depth:
            options.append("")
            continue
        options[-1] += char
    return options, at
