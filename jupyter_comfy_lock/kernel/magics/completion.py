"""What the Tab key offers after `%comfy`, by the declarations of its commands."""

# IPython's decorators have no types.
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False

import argparse
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from IPython import get_ipython
from IPython.core.completer import (
    CompletionContext,
    SimpleCompletion,
    SimpleMatcherResult,
    context_matcher,
)
from IPython.core.error import UsageError

from jupyter_comfy_lock.domain.errors import ComfyLockError
from jupyter_comfy_lock.domain.workflow.graph import is_ui_format, read_ui
from jupyter_comfy_lock.domain.workflow.parameters import find_parameter
from jupyter_comfy_lock.domain.workflow.ui import ui_to_prompt
from jupyter_comfy_lock.kernel.magics.cell import CELL_COMMANDS
from jupyter_comfy_lock.kernel.magics.commands import COMMANDS
from jupyter_comfy_lock.kernel.magics.declared import FOREVER, HELP, NONE, Command, Commands
from jupyter_comfy_lock.kernel.magics.words import raw_words, split
from jupyter_comfy_lock.kernel.session import current
from jupyter_comfy_lock.kernel.views import Servers
from jupyter_comfy_lock.kernel.workflow import Workflow
from jupyter_comfy_lock.kernel.workflow_source import read_source

#: `%comfy …`, `x = %comfy …` or `%%comfy …`, up to the cursor.
_LINE = re.compile(r"\s*(?:[\w., ]+=\s*)?(?P<magic>%%?comfy)\s+(?P<rest>.*)")
#: Which files may hold a workflow.
_SUFFIXES = (".json", ".png", ".webp")


@dataclass(frozen=True, slots=True)
class Typed:
    """What stands on the line before the word at the cursor, and what of that word."""

    command: Command
    #: The words after the command, with options and their values.
    before: Sequence[str]
    #: Those of them that are neither.
    operands: Sequence[str]
    #: What is typed of the word, without a quote that it begins with.
    word: str


@context_matcher(identifier="jupyter_comfy_lock", priority=100)
def offer(context: CompletionContext) -> SimpleMatcherResult:
    """Return what may follow on the line; nothing on any other line."""
    match = _LINE.fullmatch(context.text_until_cursor)
    if match is None or (match["magic"] == "%%comfy" and context.cursor_line > 0):
        return {"completions": []}
    rest = match["rest"]
    raw = raw_words(rest)
    fragment = "" if not raw or not rest.endswith(raw[-1]) else raw.pop()
    quote = fragment[:1] if fragment[:1] in ("'", '"') else ""
    found = _offers(match["magic"], raw, _plain(fragment))
    return {
        "completions": [SimpleCompletion(_quoted(text, quote), type=kind) for text, kind in found],
        "matched_fragment": fragment,
        "suppress": True,
        "ordered": True,
    }


def _offers(magic: str, before: Sequence[str], word: str) -> list[tuple[str, str]]:
    commands = COMMANDS if magic == "%comfy" else CELL_COMMANDS
    command, rest = _command(commands, before)
    if command is None:
        offers = [(each.__name__, "magic") for each in commands] if not before else []
    else:
        typed = Typed(command, rest, _operands(command, rest), word)
        offers = [*_options(typed), *((text, "param") for text in _values(typed))]
        if not before:
            offers = [*((each.__name__, "magic") for each in commands), *offers]
    start = word.lower()
    return [each for each in offers if each[0].lower().startswith(start)]


def _command(commands: Commands, before: Sequence[str]) -> tuple[Command | None, Sequence[str]]:
    # A cell's first word may be a value already: its command is run then.
    if commands is CELL_COMMANDS and (not before or "=" in before[0] or before[0][0] == "-"):
        return commands.by_name["run"], before
    return (commands.by_name.get(before[0]), before[1:]) if before else (None, ())


def _actions(command: Command) -> list[argparse.Action]:
    return command.parser._actions


def _option_before(typed_before: Sequence[str], command: Command) -> argparse.Action | None:
    """Return the option whose value comes next, if its value does."""
    if not typed_before:
        return None
    named = [a for a in _actions(command) if typed_before[-1] in a.option_strings]
    return named[0] if named and named[0].nargs != 0 else None


def _operands(command: Command, words: Sequence[str]) -> list[str]:
    return [
        word
        for at, word in enumerate(words)
        if not word.startswith("-") and _option_before(words[:at], command) is None
    ]


def _options(typed: Typed) -> Iterator[tuple[str, str]]:
    if not typed.word.startswith("-"):
        return
    for action in _actions(typed.command):
        repeats = isinstance(action, argparse._AppendAction)
        if repeats or not set(action.option_strings) & set(typed.before):
            yield from ((name, "param") for name in action.option_strings if name[:2] == "--")
    yield HELP[-1], "param"


def _values(typed: Typed) -> Iterator[str]:
    """Yield what the argument that is typed now may be."""
    action = _option_before(typed.before, typed.command)
    if action is None:
        places = [each for each in _actions(typed.command) if not each.option_strings]
        at = len(typed.operands)
        many = bool(places) and places[-1].nargs in ("*", "+")
        if at >= len(places) and not many:
            return
        action = places[min(at, len(places) - 1)]
    yield from OFFERS[str(action.metavar)](typed)


# -- what each kind of argument may be ----------------------------------------------------------


def _pool() -> Servers:
    try:
        return current().servers()
    except ComfyLockError:
        return Servers([])


def _ids(typed: Typed) -> list[str]:
    return [*(each.comfy_id for each in _pool()), *([NONE] if _is(typed, "pin") else [])]


def _is(typed: Typed, name: str) -> bool:
    return typed.command.__name__ == name


def _labels(_: Typed) -> list[str]:
    return sorted({label for each in _pool() for label in each.labels})


def _tasks(typed: Typed) -> list[str]:
    try:
        tasks = current().tasks()
    except ComfyLockError:
        return []
    return [each.id for each in tasks if not each.ended and each.id not in typed.operands]


def _files(typed: Typed) -> list[str]:
    folder, _ = os.path.split(typed.word)
    try:
        there = sorted(Path(folder or ".").expanduser().iterdir())
    except OSError:
        return []
    found = []
    for each in there:
        if each.name.startswith("."):
            continue
        path = os.path.join(folder, each.name)
        if each.is_dir():
            found.append(path + os.sep)
        elif each.suffix.lower() in _SUFFIXES:
            found.append(path)
    return found


def _parameters(typed: Typed) -> list[str]:
    """Return `name=` for each value of the workflow, or `name=value` for each of its choices."""
    workflow = _workflow(typed)
    if workflow is None:
        return []
    name, equals, _ = typed.word.partition("=")
    everything = list(workflow.parameters)
    if not equals:
        names = [each.name for each in everything]
        offers = [
            each.name if names.count(each.name) == 1 else f"{each.node_id}.{each.name}"
            for each in everything
        ]
        return [f"{each}=" for each in offers]
    try:
        place = find_parameter(workflow.prompt, name)
    except ComfyLockError:
        return []
    spec = next((e.spec for e in everything if (e.node_id, e.name) == place), None)
    return [f"{name}={choice}" for choice in (spec.choices if spec else None) or ()]


def _workflow(typed: Typed) -> Workflow | None:
    """Return the workflow of the line, as far as it is known without locking anything."""
    if not typed.operands:
        return None
    name = typed.operands[0]
    try:
        found = _variable(name[1:]) if name.startswith("$") else _read(name)
        if found is None or isinstance(found, Workflow):
            return found
        if not is_ui_format(found):
            return Workflow(found)
        specs = current().known_specs()
        if specs is None:
            return None
        prompt = ui_to_prompt(read_ui(found), specs, choose=lambda _: 0, now=datetime.now())
        return Workflow(prompt, specs=specs)
    except (ComfyLockError, UsageError, ValueError):
        return None


def _read(name: str) -> Any:
    (path,) = split(name)
    return read_source(Path(path), fetch=lambda _: b"")


def _variable(name: str) -> Any:
    """Return what the notebook calls `name`, if it can be a workflow. No code is run for it."""
    shell = get_ipython()
    found = None if shell is None else shell.user_ns.get(name)
    return found if isinstance(found, Workflow | Mapping) else None


def _nothing(_: Typed) -> list[str]:
    return []


#: By what an argument is called in the declarations.
OFFERS: dict[str, Callable[[Typed], Sequence[str]]] = {
    "COMMAND": lambda _: [each.__name__ for each in COMMANDS],
    "FILE": _files,
    "ID": _ids,
    "KERNEL": _nothing,
    "LABEL": _labels,
    "N": _nothing,
    "NAME": _nothing,
    "NAME=VALUE": _parameters,
    "NAME=VALUES": _parameters,
    "PORT": lambda _: [NONE],
    "SECONDS": lambda _: [FOREVER],
    "TASK": _tasks,
}


def _plain(fragment: str) -> str:
    """Return what a word means as far as it is typed."""
    for closed in (fragment, f"{fragment}'", f'{fragment}"', fragment[:-1]):
        try:
            return "".join(split(closed))
        except UsageError:
            continue
    return fragment


def _quoted(text: str, quote: str) -> str:
    """Return `text` as it is written on a line, in the quotes that were begun."""
    if quote:
        return f"{quote}{text}{'' if text.endswith(os.sep) else quote}"
    if os.name == "nt":
        return f'"{text}"' if re.search(r"\s", text) else text
    name, _, rest = text.partition("=")
    return f"{shlex.quote(name)}={shlex.quote(rest)}" if rest else shlex.quote(text)
