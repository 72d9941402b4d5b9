"""Files that a prompt names: ComfyUI's nodes read them, whoever they belong to (R4)."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: "sub/x.png [output]": ComfyUI looks in another of its folders than that for inputs.
_ANNOTATED = re.compile(r"(?P<path>.+?) ?\[(?P<type>input|output|temp)\]")
#: What nodes load has an extension; texts and names of choices mostly have none.
_FILE = re.compile(r"[^\n]{1,250}\.\w{1,11}")


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file in a ComfyServer's folder for inputs, as it is written; see `isolation.input_file`."""

    subfolder: str
    filename: str

    @property
    def folded(self) -> str:
        """Return what it has in common with all that some file systems take for the same file."""
        return f"{self.subfolder}/{self.filename}".casefold()


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that a node of a prompt may load."""

    node_id: str
    #: As the prompt has it.
    text: str
    subfolder: str
    filename: str
    #: "input", "output" or "temp".
    type: str

    @property
    def key(self) -> InputFile:
        """Return the input that it is."""
        return InputFile(self.subfolder, self.filename)


def named_files(prompt: Mapping[str, Any]) -> list[NamedFile]:
    """Return the files that the nodes of a prompt may load by name, as `LoadImage` does.

    A node that reads any path of its machine is nothing that names could tell of.
    """
    return [
        named
        for node_id, node in prompt.items()
        for text in _texts(node.get("inputs"))
        if (named := _named(node_id, text)) is not None
    ]


def not_mine(
    files: Collection[NamedFile],
    mine: Collection[tuple[str, str, str]],
    others: Collection[InputFile],
) -> list[NamedFile]:
    """Return those of `files` that are for others to load.

    Args:
        files: what the prompt names.
        mine: the files that the holder's tasks have left, as (filename, subfolder, type).
        others: the inputs that other kernels have uploaded, and this one has not.
    """
    return [
        each
        for each in files
        if (each.filename, each.subfolder, each.type) not in mine
        and (each.type != "input" or each.key in others)
    ]


def _named(node_id: str, text: str) -> NamedFile | None:
    annotated = _ANNOTATED.fullmatch(text)
    path, kind = annotated.group("path", "type") if annotated else (text, "input")
    # As ComfyUI joins it to its folder.
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts or not _FILE.fullmatch(path):
        return None
    return NamedFile(node_id, text, "/".join(parts[:-1]), parts[-1], kind)


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for each in value.values():
                yield from _texts(each)
        case list():
            for each in value:
                yield from _texts(each)
