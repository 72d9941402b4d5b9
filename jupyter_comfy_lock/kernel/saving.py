"""Saving what a task has made: names from a template, and nothing overwritten."""

import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.domain.workflow.check import title_of
from jupyter_comfy_lock.kernel.bad_input import WrongType

#: What no part of a file's name may be made of, on one system or the other.
_UNFIT = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]')
#: A prompt makes a long name; most file systems take 255 bytes.
_LONGEST = 80
_ENDING = re.compile(r"\.[A-Za-z0-9]{1,5}$")


class NotSaved(ComfyLockError):
    """What a task has made was not written, or not all of it; the task still has it."""

    code = "not_saved"


#: A name, the id of the node that made it, and what returns its bytes.
Output = tuple[str, str, Callable[[], bytes]]


def save_outputs(
    outputs: Sequence[Output],
    template: str,
    folder: str | Path,
    *,
    facts: Mapping[str, Any],
    prompt: Mapping[str, Any] | None,
) -> list[Path]:
    """Write `outputs` into `folder`, named by `template`; return where they are.

    `facts` are fields that all have in common, `date` among them in seconds since the epoch. What
    is there already with the same bytes is left as it is. Of two that get one name, the second is
    called "name (2)".

    Raises:
        NotSaved: the template has a field that there is not, or another file has a name already
            (nothing was written then), or a file cannot be written.
    """
    date = datetime.fromtimestamp(facts["date"])
    common = {**simple_values(prompt or {}), **facts, "date": date}
    hint = "" if prompt is not None else " The workflow's values are known where it was submitted."
    base, names = Path(folder).expanduser(), _Names(hint)
    targets: dict[Path, Callable[[], bytes]] = {}
    for number, (filename, node_id, read) in enumerate(outputs, start=1):
        node = (prompt or {}).get(node_id)
        about = {
            **common,
            **_about_name(filename),
            "n": number,
            "node": title_of(node) if node else f"node_{node_id}",
            "node_id": node_id,
        }
        targets[_untaken(base / _path(template, about, names), targets)] = read
    _write_all(targets)
    return list(targets)


def _about_name(filename: str) -> dict[str, str]:
    # The name is the ComfyServer's choice: a path, of whatever system, is cut off.
    path = PurePosixPath(re.split(r"[/\\]", filename)[-1])
    return {"filename": path.name, "stem": path.stem, "ext": path.suffix.removeprefix(".")}


def _write_all(targets: Mapping[Path, Callable[[], bytes]]) -> None:
    there = {where: read() for where, read in targets.items() if where.exists()}
    if others := [where for where, content in there.items() if _differs(where, content)]:
        msg = (
            f"Nothing was written: {', '.join(map(str, others))} exists already and is another "
            "file. Choose another folder, or a template that tells them apart, such as "
            '"{task_id}_{n}.{ext}"; or delete the file first.'
        )
        raise NotSaved(msg, paths=[str(each) for each in others])
    for where, read in targets.items():
        if where not in there:
            _write(where, read())


def file_name(text: str) -> str:
    """Return `text` as a part of a file's name: no path, nothing that a system cannot write."""
    # A name of dots alone is a folder; one that begins with a dot is hidden.
    return re.sub(r"^\.+", lambda dots: "_" * len(dots[0]), _UNFIT.sub("_", text).strip())


class _Names(string.Formatter):
    """Fills fields in by their whole name, and looks into nothing: `{task.__class__}` is no way."""

    def __init__(self, hint: str) -> None:
        self._hint = hint

    def get_field(self, field_name: str, args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        if field_name not in kwargs:
            names = ", ".join(f"{{{each}}}" for each in kwargs)
            msg = (
                f"The template has a field {{{field_name}}}, which there is not. There are: "
                f"{names}.{self._hint} Nothing was written."
            )
            raise NotSaved(msg, field=field_name)
        return kwargs[field_name], field_name

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, datetime) and not format_spec:
            format_spec = "%Y-%m-%d"
        return file_name(str(format(value, format_spec)))


def _path(template: str, known: Mapping[str, Any], names: _Names) -> Path:
    if not isinstance(template, str) or not template.strip():
        msg = f'the template must be text, such as "{{stem}}_{{n}}.{{ext}}", not {template!r}'
        raise WrongType(msg)
    try:
        # Each part by itself, so that no value makes a folder.
        parts = [_part(names, part, known) for part in template.split("/")]
        last = {name for _, name, _, _ in names.parse(template.split("/")[-1])}
    except ValueError as error:
        msg = f"The template {template!r} cannot be filled in: {error}. Nothing was written."
        raise NotSaved(msg, template=template) from error
    if known["ext"] and not {"filename", "ext"} & last and not _ENDING.search(template):
        parts[-1] += f".{file_name(known['ext'])}"
    return Path("/".join(parts))


def _part(names: _Names, template: str, known: Mapping[str, Any]) -> str:
    made = names.vformat(template, (), known)
    # What the user wrote is left as it is, also "..".
    return made if made == template else made.rstrip(" .") or "_"


def _untaken(target: Path, taken: Mapping[Path, Any]) -> Path:
    # As a file system sees them that does not tell upper from lower case.
    names = {str(each).lower() for each in taken}
    found, number = target, 2
    while str(found).lower() in names:
        found = target.with_name(f"{target.stem} ({number}){target.suffix}")
        number += 1
    return found


def _differs(where: Path, content: bytes) -> bool:
    try:
        return where.stat().st_size != len(content) or where.read_bytes() != content
    except OSError:
        return True


def _write(where: Path, content: bytes) -> None:
    try:
        where.parent.mkdir(parents=True, exist_ok=True)
        # "x": what has come there meanwhile is not overwritten either.
        with where.open("xb") as file:
            file.write(content)
    except OSError as error:
        msg = f"Cannot write {str(where)!r}: {error.strerror or error}. The task still has it."
        raise NotSaved(msg, path=str(where)) from error


def simple_values(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a prompt that can stand in a name: `seed`, where one node has it.

    And each as "node.input". Of a text, its beginning.
    """
    by_place = {
        f"{node_id}.{name}": value[:_LONGEST] if isinstance(value, str) else value
        for node_id, node in prompt.items()
        for name, value in _inputs(node)
        if isinstance(value, str | int | float)
    }
    names = [place.rpartition(".")[2] for place in by_place]
    alone = {
        name: value
        for name, value in zip(names, by_place.values(), strict=True)
        if names.count(name) == 1
    }
    return {**alone, **by_place}


def _inputs(node: Any) -> Iterable[tuple[str, Any]]:
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return inputs.items() if isinstance(inputs, Mapping) else ()
