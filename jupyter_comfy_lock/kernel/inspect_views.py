"""What `debug()`, `check()`, `cleanup()` and `selftest()` hand out."""

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Generic, TypeVar

from jupyter_comfy_lock.kernel.tables import Listing
from jupyter_comfy_lock.kernel.views import ago

T = TypeVar("T")


class _Told(Listing[T], Generic[T]):
    """A table, with what was said beside it."""

    def __init__(self, items: Sequence[T], json: Mapping[str, Any]) -> None:
        super().__init__(items)
        self._json = json

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values, as the REST API has it."""
        return dict(self._json)

    def beside(self) -> list[str]:
        """Return the lines that are shown below the table."""
        return []

    def __repr__(self) -> str:
        return "\n".join([super().__repr__(), *self.beside()])

    def _repr_html_(self) -> str:
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in self.beside())
        # Its cells are sentences: they may be broken.
        table = super()._repr_html_().replace("white-space: nowrap", "white-space: normal")
        return table + lines

    def __rich__(self) -> Any:
        from rich.console import Group  # noqa: PLC0415 - only who prints with rich needs rich
        from rich.text import Text  # noqa: PLC0415

        return Group(super().__rich__(), *map(Text, self.beside()))


def _only_known(cls: type[T], json: Mapping[str, Any]) -> T:
    """Return a record of what it knows; a newer Jupyter server may tell more."""
    return cls(**{each.name: json.get(each.name) for each in fields(cls)})  # type: ignore[arg-type]


def _since(moment: float | None) -> str:
    return "" if moment is None else ago(time.time() - moment)


def _for(moment: float | None) -> str:
    return "" if moment is None else f" (for {_since(moment)})"


# -- check ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as it should be ("trouble"), or good to know ("note")."""

    kind: str
    level: str
    what: str
    #: What to do next.
    todo: str
    comfy_id: str | None
    holder_id: str | None
    task_id: str | None
    #: Seconds since the epoch; None where it is not known.
    since: float | None


class Findings(_Told[Finding]):
    """What is wrong in the pool, trouble first."""

    columns: ClassVar[tuple[str, ...]] = ("", "what", "for", "what to do")
    nothing: ClassVar[str] = "Nothing is wrong."

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> "Findings":
        """Return the findings of the wire."""
        return cls([_only_known(Finding, each) for each in json["findings"]], json)

    @property
    def ok(self) -> bool:
        """Whether there is no trouble, as far as this kernel may see."""
        return all(each.level != "trouble" for each in self)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What was not looked at because a kernel asked, and who sees it."""
        return tuple(self._json.get("left_out") or ())

    def row(self, item: Finding) -> tuple[str, ...]:
        """Return the cells of a finding."""
        return (item.level, item.what, _since(item.since), item.todo)

    def beside(self) -> list[str]:
        """Return what was left out."""
        return list(self.left_out)

    def __repr__(self) -> str:
        # Sentences, which a table of text would make too wide to read.
        lines = [f"{each.level}: {each.what}{_for(each.since)}\n    {each.todo}" for each in self]
        return "\n".join([*(lines or [self.nothing]), *self.beside()])


# -- cleanup -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that was done, or would be."""

    step_id: str
    #: "leave_line", "release", "cancel" or "remove".
    action: str
    #: "planned", "done", "over" (it had ended by itself) or "failed".
    result: str
    what: str
    #: Why it failed.
    why: str | None
    comfy_id: str
    holder_id: str
    #: The id of the lock, request, task or prompt.
    subject: str
    #: Seconds since the epoch; None where it is not known.
    since: float | None


class Cleanup(_Told[Step]):
    """What cleaning up did, or would do."""

    columns: ClassVar[tuple[str, ...]] = ("result", "what", "for", "why")
    nothing: ClassVar[str] = "There is nothing to clean up."

    @classmethod
    def from_json(cls, json: Mapping[str, Any]) -> "Cleanup":
        """Return the clean-up of the wire."""
        return cls([_only_known(Step, each) for each in json["steps"]], json)

    @property
    def dry_run(self) -> bool:
        """Whether it was only said what would be done."""
        return bool(self._json["dry_run"])

    @property
    def kernel(self) -> str:
        """The id of the kernel that it is about."""
        return str(self._json["kernel"])

    def row(self, item: Step) -> tuple[str, ...]:
        """Return the cells of a step."""
        return (item.result, item.what, _since(item.since), item.why or "")

    def beside(self) -> list[str]:
        """Say that nothing was done, if so."""
        return ["Nothing was done: it was a dry run."] if self.dry_run and len(self) else []


# -- self-test -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One promise that was tried."""

    name: str
    #: What it shows when it passes.
    shows: str
    #: "passed", "failed" or "skipped".
    verdict: str
    #: What was seen, or why it failed or could not be tried.
    why: str
    seconds: float


class SelfTest(_Told[Trial]):
    """What came of the self-test."""

    columns: ClassVar[tuple[str, ...]] = ("test", "", "what was seen", "shows that")

    @classmethod
    def from_json(cls, trials: Sequence[Mapping[str, Any]]) -> "SelfTest":
        """Return the trials of the wire."""
        made = [_only_known(Trial, each) for each in trials]
        passed = all(each.verdict != "failed" for each in made)
        return cls(made, {"passed": passed, "trials": [dict(each) for each in trials]})

    @property
    def passed(self) -> bool:
        """Whether none has failed. Those that could not be tried now are `skipped`."""
        return bool(self._json["passed"])

    @property
    def skipped(self) -> tuple[str, ...]:
        """The names of those that could not be tried now."""
        return tuple(each.name for each in self if each.verdict == "skipped")

    def row(self, item: Trial) -> tuple[str, ...]:
        """Return the cells of a trial."""
        return (item.name, item.verdict, item.why, item.shows)
