"""The workers: started, told, stopped, killed and heard of; all of it is in the history."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any

from tests.chaos.history import History
from tests.chaos.setup import Setup

#: Seconds.
_DIES_WITHIN = 10.0


class Worker:
    """One process at a time; another one follows when it was killed."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.process: BaseProcess | None = None
        self.pipe: Pipe | None = None
        self.stopped = False
        #: Something was set up that has not happened yet.
        self.trapped = False
        self.finished = False
        #: Calls that reached the store, in this life and all before it.
        self.operations = 0
        self.before = 0

    @property
    def number(self) -> int:
        return self.setup.number

    @property
    def pid(self) -> int:
        assert self.process is not None
        assert self.process.pid is not None
        return self.process.pid

    @property
    def runs(self) -> bool:
        """Whether it lives, and does something."""
        return self.process is not None and not self.stopped


class Crowd:
    """All workers."""

    def __init__(self, setups: list[Setup], history: History) -> None:
        # Children are made by a process that has imported all, and has no threads.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.chaos.worker"])
        self._history = history
        self.workers = [Worker(setup) for setup in setups]
        #: Places of transactions where a worker was killed, and stopped, already.
        self.tried: dict[signal.Signals, set[str]] = defaultdict(set)
        #: Called when a worker has stopped by itself, or died by itself.
        self.on_stopped: Callable[[Worker], None] = lambda who: None
        self.on_died: Callable[[Worker], None] = lambda who: None

    @property
    def operations(self) -> int:
        return sum(each.before + each.operations for each in self.workers)

    def start(self, who: Worker) -> None:
        ours, theirs = self._context.Pipe()
        who.process = self._context.Process(target=_work, args=(who.setup, theirs))
        who.process.start()
        theirs.close()
        who.pipe = ours
        who.stopped = who.trapped = who.finished = False
        self._history.write("start", w=who.number, pid=who.pid)
        who.setup = replace(who.setup, life=who.setup.life + 1)

    def tell(self, who: Worker, *message: Any) -> None:
        """Tell a worker that runs; one that is stopped would not read it."""
        if who.runs and who.pipe is not None:
            with suppress(OSError):
                who.pipe.send(message)

    def kill(self, who: Worker) -> None:
        if who.process is None:
            return
        self._history.write("kill", w=who.number, pid=who.pid)
        with suppress(ProcessLookupError):
            os.kill(who.pid, signal.SIGKILL)
        self._buried(who)

    def stop(self, who: Worker) -> None:
        if not who.runs:
            return
        self._history.write("stop", w=who.number, pid=who.pid)
        os.kill(who.pid, signal.SIGSTOP)
        who.stopped = True

    def go_on(self, who: Worker) -> None:
        if who.process is None or not who.stopped:
            return
        os.kill(who.pid, signal.SIGCONT)
        self._history.write("cont", w=who.number, pid=who.pid)
        who.stopped = False

    def listen(self, seconds: float) -> None:
        """Hear what workers have to say, for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            pipes = {each.pipe: each for each in self.workers if each.pipe is not None}
            if not pipes:
                time.sleep(left)
                return
            for pipe in wait(list(pipes), left):
                self._hear(pipes[pipe])  # type: ignore[index]

    def _hear(self, who: Worker) -> None:
        assert who.pipe is not None
        try:
            what, *more = who.pipe.recv()
        except (EOFError, OSError):
            self._ended(who)
            return
        match what:
            case "stopped":
                self.tried[signal.SIGSTOP].update(more)
                who.trapped, who.stopped = False, True
                self.on_stopped(who)
            case "dies":
                self.tried[signal.SIGKILL].update(more)
                who.trapped = False
                self._history.write("kill", w=who.number, pid=who.pid, place=more[0])
                self._buried(who)
                self.on_died(who)
            case "counts":
                who.operations = more[0]
            case "finished":
                who.finished = True

    def _ended(self, who: Worker) -> None:
        """Take note of one that ended by itself: when it was told to, or it is broken."""
        assert who.process is not None
        who.process.join(_DIES_WITHIN)
        if who.process.exitcode != 0:
            text = f"worker {who.number} ended with {who.process.exitcode}"
            self._history.write("broken", text=text)
        self._buried(who, died=who.process.exitcode != 0)

    def _buried(self, who: Worker, *, died: bool = True) -> None:
        assert who.process is not None
        assert who.pipe is not None
        who.process.join(_DIES_WITHIN)
        who.pipe.close()
        if died:
            self._history.write("dead", w=who.number, pid=who.pid)
        who.process = who.pipe = None
        who.before, who.operations = who.before + who.operations, 0
        who.stopped = who.trapped = False


def _work(setup: Setup, pipe: Pipe) -> None:
    # Where it was imported already; here it would take a while.
    from tests.chaos import worker

    worker.main(setup, pipe)
