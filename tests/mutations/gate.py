"""Plants each fault of a list in a copy of the package, and looks whether a test notices.

    python -m tests.mutations.gate              all that need no PostgreSQL
    python -m tests.mutations.gate --postgres   all
    python -m tests.mutations.gate barging …    these

A test that passes whatever is broken proves nothing. To add a fault, add a `Mutant` to `mutants`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutations.forked import ROOT, Forks

PACKAGE = "jupyter_comfy_lock"
#: What pytest says with its exit code.
ALL_PASSED, SOME_FAILED = 0, 1
AT_ONCE = 2
#: Others take longer to import than these tests take to run.
FEW_PLUGINS = (
    *("-p", "pytest_asyncio.plugin", "-p", "pytest_timeout"),
    *("-p", "_hypothesis_pytestplugin"),
)
RUN_S = 110.0
#: The folder from which the tests must import the package.
WHERE = "COMFY_LOCK_MUTATED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted fault."""

    name: str
    #: Below the package.
    file: str
    #: Stands there exactly once.
    old: str
    new: str
    #: The tests of which one must fail.
    tests: Sequence[str]
    #: They need PostgreSQL, and more time.
    postgres: bool = False
    #: They need what tests/conftest.py and other plugins bring, which takes longer.
    conftest: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of one mutant."""

    name: str
    #: The first test that failed, or what else there is to say.
    told: str
    code: int
    seconds: float


class NotThere(Exception):
    """The text that a mutant replaces does not stand in its file exactly once."""


def _run(mutant: Mutant, forks: Forks) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="comfy-lock-mutant-") as folder:
        file = _copy(Path(folder)) / mutant.file
        text = file.read_text()
        if text.count(mutant.old) != 1:
            msg = f"{mutant.name}: {mutant.file} has its old text {text.count(mutant.old)} times"
            raise NotThere(msg)
        file.write_text(text.replace(mutant.old, mutant.new))
        return _pytest(Path(folder), mutant, forks)


def run_unchanged(mutants: Iterable[Mutant]) -> Verdict:
    """Run all tests of the mutants on a copy without a fault."""
    chosen = list(mutants)
    with tempfile.TemporaryDirectory(prefix="comfy-lock-mutant-") as folder:
        _copy(Path(folder))
        all_of = Mutant(
            name="(unchanged)",
            file="",
            old="",
            new="",
            tests=tuple(dict.fromkeys(test for each in chosen for test in each.tests)),
            postgres=any(each.postgres for each in chosen),
            conftest=any(each.conftest for each in chosen),
        )
        with Forks() as forks:
            return _pytest(Path(folder), all_of, forks)


def run_all(mutants: Iterable[Mutant]) -> list[Verdict]:
    """Plant each fault and run its tests, two at a time.

    Raises:
        NotThere: the code has changed; the mutant must follow it.
    """
    idle = SimpleQueue[Forks]()

    def verdict(mutant: Mutant) -> Verdict:
        forks = idle.get()
        try:
            return _run(mutant, forks)
        finally:
            idle.put(forks)

    with ExitStack() as stack:
        for _ in range(AT_ONCE):
            idle.put(stack.enter_context(Forks()))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(verdict, mutants))


def complaints(verdicts: Iterable[Verdict]) -> list[str]:
    """Return what is wrong with the tests, or with the list: survivors above all."""
    return [complaint for each in verdicts if (complaint := _complaint(each))]


def _complaint(verdict: Verdict) -> str | None:
    if verdict.code == ALL_PASSED:
        return f"{verdict.name}: survived, all its tests passed"
    if verdict.code != SOME_FAILED:
        return f"{verdict.name}: its tests did not run (code {verdict.code}): {verdict.told}"
    if "Timeout (>" in verdict.told:
        # Of a busy machine, as likely as of the fault.
        return f"{verdict.name}: its tests ran out of time: {verdict.told}"
    return None


def _copy(folder: Path) -> Path:
    ignored = shutil.ignore_patterns("static", "labextension", "server_config", "*.ipynb")
    # With the times of the files, so that what is compiled already need not be again.
    found = importlib.util.find_spec(PACKAGE)
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    return Path(shutil.copytree(package, folder / PACKAGE, ignore=ignored))


def _pytest(folder: Path, mutant: Mutant, forks: Forks) -> Verdict:
    needs_conftest = mutant.conftest or mutant.postgres
    arguments = [
        *("-x", "-q", "--no-header", "--tb=no", "-rf"),
        *("-p", "tests.mutations.imported", "-p", "no:cacheprovider", "-o", "pythonpath="),
        # A Jupyter server waits for a while before it says that nothing comes.
        f"--timeout={60 if needs_conftest else 20}",
        *(() if needs_conftest else ("--confcutdir=tests/store", *FEW_PLUGINS)),
        *(() if mutant.postgres else ("-k", "not postgresql")),
        *mutant.tests,
    ]
    paths = [folder, ROOT]
    inherited = filter(None, [os.environ.get("PYTHONPATH")])
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
        "PYTHONPATH": os.pathsep.join([*map(str, paths), *inherited]),
        # The reason of a failure is told whole.
        "COLUMNS": "400",
        WHERE: str(folder),
    }
    if not needs_conftest:
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    log = folder / "log"
    began_s = time.monotonic()
    code = forks.run_pytest(
        arguments, paths=paths, environment=environment, log=log, within_s=RUN_S
    )
    said = log.read_text(errors="replace").strip().splitlines() or [""]
    failed = next((line for line in said if line.startswith("FAILED ")), None)
    return Verdict(
        name=mutant.name,
        told=failed.removeprefix("FAILED ") if failed else said[-1],
        code=code,
        seconds=time.monotonic() - began_s,
    )


def main() -> int:
    """Run what the command line names."""
    from tests.mutations.mutants import MUTANTS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--postgres", action="store_true", help="those that need PostgreSQL too")
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    chosen = [
        each
        for each in MUTANTS
        if (each.name in asked.names if asked.names else asked.postgres or not each.postgres)
    ]
    unchanged = run_unchanged(chosen)
    print(f"{unchanged.seconds:5.1f} s  {unchanged.name}: {unchanged.told}", flush=True)
    verdicts = run_all(chosen)
    for each in verdicts:
        print(f"{each.seconds:5.1f} s  {each.name}: {each.told}")
    wrong = complaints(verdicts)
    if unchanged.code != ALL_PASSED:
        wrong.insert(0, f"tests fail without any fault: {unchanged.told}")
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
