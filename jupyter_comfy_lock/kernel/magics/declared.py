"""What a command's declaration is made of, and what can be read from it."""

# IPython's decorators have no types.
# mypy: disallow-untyped-calls=False

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from IPython.core.error import UsageError

from jupyter_comfy_lock.domain.workflow.values import close_to
from jupyter_comfy_lock.kernel.magics.axes import axis
from jupyter_comfy_lock.kernel.magics.words import Word
from jupyter_comfy_lock.kernel.tables import Listing

#: What `--wait` takes besides seconds.
FOREVER = "forever"
#: What stands for no ComfyServer and for no port.
NONE = "none"

HELP = ("-h", "--help")
#: An option, and no negative number.
_OPTION = re.compile(r"--?[a-zA-Z][^=]*")

#: Arguments of the API's own, which no input of a workflow can be mistaken for.
_OWN = {"workflow", "extra_data", "timeout", "in_flight", "max_cells"}


class Command(Protocol):
    """A function that IPython's `magic_arguments` has given a parser."""

    __name__: str
    parser: argparse.ArgumentParser

    def __call__(self, *args: Any) -> Any:
        """Do it."""


class Commands(Listing[Command]):
    """The commands of a magic, as a table and by their names."""

    columns: ClassVar[tuple[str, ...]] = ("command", "what it does")

    def __init__(self, magic: str, commands: Iterable[Callable[..., Any]]) -> None:
        super().__init__(list(commands))  # type: ignore[arg-type] # magic_arguments has no types
        #: "%comfy" or "%%comfy".
        self.magic = magic

    @property
    def by_name(self) -> Mapping[str, Command]:
        """The commands by their names."""
        return {each.__name__: each for each in self}

    def find(self, name: str) -> Command:
        """Return the command of that name.

        Raises:
            UsageError: there is none; the message has the nearest, or all.
        """
        known = self.by_name
        if name not in known:
            near = close_to(name, known) or f". It has: {', '.join(known)}"
            msg = f"{self.magic} has no command {name!r}{near}"
            raise UsageError(msg)
        return known[name]

    def row(self, item: Command) -> tuple[str, ...]:
        """Return how a command is written, and what it does."""
        return usage(item), summary(item)

    def _repr_html_(self) -> str:
        # These are sentences, longer than a notebook is wide.
        return super()._repr_html_().replace("; white-space: nowrap", "")


def usage(command: Command) -> str:
    """Return how `command` is written, on one line."""
    return " ".join(command.parser.format_usage().removeprefix("::").split())


def summary(command: Command) -> str:
    """Return what `command` does, in one sentence."""
    return (command.parser.description or "").split("\n\n")[0].strip()


def help_text(command: Command) -> str:
    """Return what `--help` shows."""
    # IPython writes it for Sphinx.
    return command.parser.format_help().removeprefix("::").strip("\n")


def parse(command: Command, words: Sequence[Word]) -> Any:
    """Return the arguments that `words` are, for `command` to take.

    Raises:
        UsageError: they are not as it takes them; the message says what is wrong and what fits.
    """
    parser, name = command.parser, command.parser.prog
    try:
        _check_options(parser, words)
        # Options may stand before, between and after the values.
        args, unknown = parser.parse_known_intermixed_args(words)
        if unknown:
            parser.error(f"{unknown[0]!r} is more than it takes")
    except UsageError as error:
        told = str(error)
        end = "" if told.endswith(("?", ".")) else "."
        msg = f"%{name}: {told}{end} %{name} --help tells what it takes."
        raise UsageError(msg) from None
    return args


def _check_options(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Refuse an option that there is not, also a shortened one, before its value is read."""
    known = [option for action in parser._actions for option in action.option_strings]
    for word in words:
        option = _OPTION.match(word)
        if option and option[0] not in known:
            has = f". It has: {', '.join(known)}" if known else ""
            parser.error(f"it has no option {option[0]!r}{close_to(option[0], known) or has}")


# -- what an argument may be --------------------------------------------------------------------


def value(word: str) -> Any:
    """Return the object that a `$name` stands for, or the text."""
    return word.value if isinstance(word, Word) else word


def seconds(text: str) -> float | None:
    """Return a number of seconds, None for "forever"."""
    if text == FOREVER:
        return None
    try:
        return float(text)
    except ValueError:
        msg = f'needs seconds or "{FOREVER}", not {text!r}'
        raise argparse.ArgumentTypeError(msg) from None


def whole_number(text: str) -> int:
    """Return a whole number."""
    try:
        return int(text)
    except ValueError:
        msg = f"needs a whole number, not {text!r}"
        raise argparse.ArgumentTypeError(msg) from None


def or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader of what `kind` reads, and of "none" as None."""

    def read(text: str) -> Any:
        return None if text == NONE else kind(text)

    return read


def _not_an_input(parser: argparse.ArgumentParser, name: str) -> str:
    option = f"--{name.replace('_', '-')}"
    if any(option in action.option_strings for action in parser._actions):
        return f"{name!r} is an option: {option} …; an input of that name is '3.{name}=…'"
    return f"an input {name!r} is named with its node: '3.{name}=…'"


class _Assignments(argparse.Action):
    """Collects `NAME=VALUE` words as a dict."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Set what the words say.

        Raises:
            UsageError: a word is no NAME=VALUE, its value is none, or its name stands twice or
                for something else.
        """
        found: dict[str, Any] = {}
        for word in values or ():
            parts = word.split_at_equals()
            if parts is None:
                parser.error(f"{word!r} is no NAME=VALUE; a value with spaces needs quotes")
            name, text = parts
            if name in _OWN:
                parser.error(_not_an_input(parser, name))
            if name in found:
                parser.error(f"{name!r} is given twice")
            try:
                found[name] = self.read(name, text)
            except ValueError as error:
                parser.error(str(error))
        setattr(namespace, self.dest, found)

    def read(self, name: str, word: Word) -> Any:
        raise NotImplementedError


class Values(_Assignments):
    """`NAME=VALUE`: JSON where it parses, text otherwise, the object itself where it is `$name`."""

    def read(self, name: str, word: Word) -> Any:
        """Return the value."""
        return word.read()


class Axes(_Assignments):
    """`NAME=VALUES`, as `axes` reads them."""

    def read(self, name: str, word: Word) -> Any:
        """Return the values."""
        return axis(name, word)
