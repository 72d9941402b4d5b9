"""Says which rules a run has broken: pure functions of its history and of the store's last state.

What counts:

*Order.* All processes share one monotonic clock. A lock is known to be granted from the moment
when its process wrote so, or began a use under it: the store had granted it before.

*A use* is what the gateway does: a check, and at once, with nothing awaited in between, a line in
the history in place of a request to a ComfyServer. It goes out at some time between `t`, the last
look at the clock before, and `ended`, the first one after.

*A conflict* is a use that goes out after a later lock (one with a higher fence) of another holder
on the same ComfyServer is known to be granted, where either of the two is exclusive. What the
holder believed does not count, and neither does a check that led to no use.

*A paused gateway* is the one excuse. No process can be kept from being stopped between the check
and the forward, and going on with it hours later. So a conflict is not a violation but counted as
`paused` if both of this are in the history: the later lock was not known yet when the check
began, and somebody stopped this very process between the check and the forward.

The rows of the store say the rest exactly. Each change has a revision; a lock takes up room from
its fence on, and until the revision of its last change, when it ended. So who had what, and who
stood in line, is known at each revision, whatever the clocks say.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from tests.chaos.history import Event, S

#: A row of the table `locks`.
Row = Mapping[str, Any]
#: In nanoseconds, from and to.
Span = tuple[int, int]

#: What is free this long after its process died: TTL and so many seconds (R8).
GRACE_S = 5.0
#: A call may return so many seconds after its wait: on a busy machine many stand in line for the
#: store, each of whom may wait for others for 10 s.
ANSWER_S = 120.0
FOR_EVER = float("inf")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What holds in a run."""

    ttl_s: float
    margin_s: float
    #: Of each ComfyServer.
    capacity: Mapping[str, int]


@dataclass(frozen=True)
class Violation:
    kind: str
    text: str


@dataclass
class Report:
    violations: list[Violation] = field(default_factory=list)
    #: Uses of a gateway that was stopped between check and forward.
    paused: list[str] = field(default_factory=list)
    #: Seconds from each kill until nothing of that process took up room or stood in line.
    freed_s: list[float] = field(default_factory=list)
    #: Seconds from the end of the wait that was asked for until each call returned.
    answered_s: list[float] = field(default_factory=list)

    @property
    def by_kind(self) -> Counter[str]:
        return Counter(each.kind for each in self.violations)


def check(
    events: Sequence[Event], rows: Sequence[Row], rules: Rules, *, ended: bool = True
) -> Report:
    """Check a whole run. `events` in the order of time; `ended`: nobody should have anything."""
    report = Report()
    add = report.violations.extend
    for kind, found in conflicts(events, stops(events)):
        if kind == "paused":
            report.paused.append(found)
        else:
            add([Violation(kind, found)])
    add(late(events, rules))
    add(two_locks(events))
    add(fences(events))
    add(other_than_stored(events, rows))
    add(room(rows, rules))
    add(overtaken(events, rows))
    report.freed_s, not_freed = freed(events, rules)
    add(not_freed)
    add(blind(events))
    report.answered_s, not_answered = answered(events)
    add(not_answered)
    add(broken(events))
    if ended:
        add(left_over(rows))
    return report


def stops(events: Iterable[Event]) -> dict[int, list[Span]]:
    """When each process stood still because it was stopped, at most."""
    since: dict[int, int] = {}
    found: dict[int, list[Span]] = defaultdict(list)
    for event in events:
        if event["what"] == "stop":
            since.setdefault(event["pid"], event["t"])
        elif event["what"] in ("cont", "dead") and event["pid"] in since:
            found[event["pid"]].append((since.pop(event["pid"]), event["t"]))
    for pid, began in since.items():
        found[pid].append((began, 2**63))
    return found


# -- what went out -------------------------------------------------------------------------------


@dataclass
class _Newest:
    """The highest fence, and the highest one of another holder than that."""

    first: tuple[int, str] = (-1, "")
    other: tuple[int, str] = (-1, "")

    def add(self, fence: int, holder: str) -> None:
        if holder == self.first[1]:
            self.first = max(self.first, (fence, holder))
        elif fence > self.first[0]:
            self.first, self.other = (fence, holder), self.first
        elif fence > self.other[0]:
            self.other = (fence, holder)

    def than(self, holder: str) -> tuple[int, str]:
        """The highest fence of somebody else, and whose it is."""
        return self.other if self.first[1] == holder else self.first


def conflicts(
    events: Sequence[Event], stopped: Mapping[int, Sequence[Span]]
) -> Iterator[tuple[str, str]]:
    """Uses beside a later lock that excludes them: `conflict`, or `paused` if that explains it."""
    for comfy_id, granted in _known(events).items():
        uses = [e for e in events if e["what"] == "use" and e["comfy"] == comfy_id]
        uses.sort(key=lambda use: use["ended"])
        seen = {"shared": _Newest(), "exclusive": _Newest()}
        when = {lock["fence"]: known for known, lock in granted}
        at = 0
        for use in uses:
            while at < len(granted) and granted[at][0] < use["ended"]:
                lock = granted[at][1]
                seen[lock["mode"]].add(lock["fence"], lock["holder"])
                at += 1
            against = ["exclusive"] if use["mode"] == "shared" else ["exclusive", "shared"]
            for mode in against:
                fence, holder = seen[mode].than(use["holder"])
                if fence <= use["fence"]:
                    continue
                known = when[fence]
                text = (
                    f"{comfy_id}: {use['holder']} ({use['mode']}, fence {use['fence']}) in process "
                    f"{use['pid']} forwards at {_at(use['t'])}, and {holder} has it ({mode}, fence "
                    f"{fence}) since {_at(known)} or before"
                )
                was_stopped = any(
                    began < use["ended"] and until > use["began"]
                    for began, until in stopped.get(use["pid"], ())
                )
                yield "paused" if known > use["began"] and was_stopped else "conflict", text


def _known(events: Iterable[Event]) -> dict[str, list[tuple[int, Event]]]:
    """Each lock of each ComfyServer, and since when it is known to be granted, in that order."""
    first: dict[int, tuple[int, Event]] = {}
    for event in events:
        if event["what"] in ("granted", "use"):
            known = event.get("began", event["t"])
            # A lock that was made shared before it was let go of is told so by its uses.
            if event["fence"] not in first or known < first[event["fence"]][0]:
                first[event["fence"]] = known, event
    found: dict[str, list[tuple[int, Event]]] = defaultdict(list)
    for known, event in first.values():
        found[event["comfy"]].append((known, event))
    for each in found.values():
        each.sort(key=lambda known: known[0])
    return found


def late(events: Sequence[Event], rules: Rules) -> Iterator[Violation]:
    """Uses after the deadline: by what the process said is left, and by its renewals."""
    deadline: dict[int, int] = {}
    for event in events:
        if event["what"] in ("joined", "renewed"):
            # The lease is counted from before the renewal was sent.
            lasts = round((rules.ttl_s - rules.margin_s) * S)
            deadline[event["pid"]] = max(deadline.get(event["pid"], 0), event["before"] + lasts)
        elif event["what"] == "use":
            over = event["began"] - deadline.get(event["pid"], 0)
            if event["left"] <= 0 or over > 0:
                yield Violation(
                    "late",
                    f"{event['holder']} in process {event['pid']} forwards at {_at(event['t'])} "
                    f"with {event['left']:.3f} s left of its lease, {over / S:.3f} s after the "
                    "deadline",
                )


def two_locks(events: Sequence[Event]) -> Iterator[Violation]:
    """R1: a holder that has a newer lock forwards nothing under the older one."""
    newest: dict[str, tuple[int, int]] = {}
    known = sorted(
        (e for e in events if e["what"] in ("use", "granted")),
        key=lambda e: e.get("began", e["t"]),
    )
    for event in known:
        fence, since = newest.get(event["holder"], (-1, 0))
        if event["fence"] < fence and event["what"] == "use":
            yield Violation(
                "two locks",
                f"{event['holder']} forwards at {_at(event['t'])} with fence {event['fence']} on "
                f"{event['comfy']}, and has {fence} since {_at(since)}",
            )
        elif event["fence"] > fence:
            newest[event["holder"]] = event["fence"], event.get("began", event["t"])


# -- fences, places, room ------------------------------------------------------------------------


def fences(events: Sequence[Event]) -> Iterator[Violation]:
    """Fences that were given twice, or are not above all that were given before they were asked."""
    asked = {e["request"]: e["t"] for e in reversed(events) if e["what"] == "ask"}
    granted: dict[int, Event] = {}
    first: list[Event] = []
    for event in events:
        if event["what"] not in ("granted", "use"):
            continue
        known = granted.setdefault(event["fence"], event)
        if known is event:
            first.append(event)
        elif (known["lock"], known["comfy"]) != (event["lock"], event["comfy"]):
            yield Violation(
                "fence",
                f"{event['fence']} is that of {known['lock']} on {known['comfy']}, and of "
                f"{event['lock']} on {event['comfy']}",
            )
    # In the order of asking, each against those that were granted before it.
    until = [event["t"] for event in first]
    highest = [-1]
    for event in first:
        highest.append(max(highest[-1], event["fence"]))
    for event in first:
        if event["lock"] in asked:
            before = highest[bisect_left(until, asked[event["lock"]])]
            if before >= event["fence"]:
                yield Violation(
                    "fence",
                    f"{event['lock']} was asked for at {_at(asked[event['lock']])} and has "
                    f"{event['fence']}, after {before} was given",
                )


def other_than_stored(events: Sequence[Event], rows: Sequence[Row]) -> Iterator[Violation]:
    """Grants that the store does not know, or knows otherwise."""
    known = {row["lock_id"]: row for row in rows}
    for event in events:
        if event["what"] != "granted":
            continue
        row = known.get(event["lock"])
        told = tuple(event[name] for name in ("holder", "comfy", "fence", "mode"))
        names = ("holder_id", "comfy_id", "fence", "mode")
        stored = None if row is None else tuple(row[name] for name in names)
        if told != stored:
            yield Violation("other than stored", f"{event['lock']}: {told}, in the store {stored}")


def room(rows: Sequence[Row], rules: Rules) -> Iterator[Violation]:
    """Locks that had no room beside those that took it up at that revision."""
    for comfy_id, granted in _granted(rows).items():
        active: list[Row] = []
        for row in granted:
            active = [each for each in active if row["fence"] < _end(each)]
            others = [each for each in active if each["holder_id"] != row["holder_id"]]
            alone = any("exclusive" in (each["mode"], row["mode"]) for each in others)
            if alone or len({each["holder_id"] for each in others}) >= rules.capacity[comfy_id]:
                beside = ", ".join(f"{x['holder_id']} ({x['mode']}, {x['fence']})" for x in others)
                yield Violation(
                    "no room" if alone else "capacity",
                    f"{comfy_id}: {row['holder_id']} ({row['mode']}, {row['fence']}) was granted "
                    f"beside {beside}",
                )
            active.append(row)


def overtaken(events: Sequence[Event], rows: Sequence[Row]) -> Iterator[Violation]:
    """Grants out of order: for each ComfyServer by ticket, those first who had it already."""
    wants = {e["request"]: e["wants"] for e in events if e["what"] == "ask"}
    granted = _granted(rows)
    for comfy_id, there in granted.items():
        in_line = [
            row
            for row in rows
            if comfy_id in wants.get(row["lock_id"], ()) and row["fence"] != row["ticket"]
        ]
        in_line.sort(key=lambda row: row["ticket"])
        had = defaultdict(list)
        for row in there:
            had[row["holder_id"]].append(row)
        standing: list[Row] = []
        at = 0
        for row in there:
            fence = row["fence"]
            while at < len(in_line) and in_line[at]["ticket"] < fence:
                standing.append(in_line[at])
                at += 1
            standing = [each for each in standing if fence < _left_line(each)]
            for other in standing:
                if other["lock_id"] == row["lock_id"]:
                    continue
                earlier = other["ticket"] < row["ticket"]
                has = _has(other, comfy_id, had[other["holder_id"]], fence)
                if (earlier and has) if row["was"] else (earlier or has):
                    yield Violation(
                        "overtaken",
                        f"{comfy_id}: {row['holder_id']} (ticket {row['ticket']}, had it: "
                        f"{row['was']}) got it at {fence}, before {other['holder_id']} (ticket "
                        f"{other['ticket']}, had it: {has}) who stood in line until "
                        f"{_left_line(other)}",
                    )


def _has(waiter: Row, comfy_id: str, locks: Iterable[Row], revision: int) -> bool:
    """Whether `waiter` surely had the ComfyServer at `revision`, in another mode.

    A row does not say since when it drains. But who had the ComfyServer when its turn came, and
    took up room on it before, had it all the time: nothing leads back from draining.
    """
    return (
        waiter["was"] is not None
        and waiter["comfy_id"] == comfy_id
        and any(row["fence"] <= revision < _end(row) for row in locks)
    )


def _granted(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["fence"] is not None:
            found[row["comfy_id"]].append(row)
    for each in found.values():
        each.sort(key=lambda row: row["fence"])
    return found


def _end(row: Row) -> float:
    """The revision from which a granted lock takes up no room."""
    return float(row["rev"]) if row["state"] == "ended" else FOR_EVER


def _left_line(row: Row) -> float:
    """The revision at which a waiter left the line, one way or the other."""
    if row["fence"] is not None:
        return float(row["fence"])
    return _end(row)


# -- ends ----------------------------------------------------------------------------------------


def outages(events: Iterable[Event]) -> list[Span]:
    """When the whole store could not be used, whoever asked."""
    return [(event["since"], event["t"]) for event in events if event["what"] == "outage"]


def _hindered(events: Iterable[Event]) -> dict[int, list[Span]]:
    """When each process could do nothing, for other reasons than being stopped."""
    found: dict[int, list[Span]] = defaultdict(list)
    for event in events:
        if event["what"] == "hindered":
            found[event["pid"]].append((event["since"], event["t"]))
    return found


def _overlap(span: Span, others: Iterable[Span]) -> int:
    """For how long any of `others` were during `span`."""
    total, until = 0, span[0]
    for began, end in sorted(others):
        began, end = max(began, until), min(end, span[1])
        if end > began:
            total += end - began
            until = end
    return total


def freed(events: Sequence[Event], rules: Rules) -> tuple[list[float], list[Violation]]:
    """How long each dead process kept something; violations where that was too long.

    The store was looked at again and again; it is free when it was seen so. While the whole store
    was away nobody could do anything, and that does not count. A machine may be so busy that no
    process gets to look for dead ones in time; what is late for that alone is no violation (but
    see `blind`). One that has looked twice, with a TTL in between, must have ended it.
    """
    pids = {e["node"]: e["pid"] for e in events if e["what"] == "joined"}
    died = {e["pid"]: e["t"] for e in events if e["what"] == "dead"}
    away = outages(events)
    looks = _looks(events)
    free: dict[str, int] = {}
    polls = [event for event in events if event["what"] == "active"]
    for poll, following in pairwise(polls):
        for node in set(poll["nodes"]) - set(following["nodes"]):
            free[node] = following["t"]
    times, violations = [], []
    for node, pid in pids.items():
        if pid not in died:
            continue
        kept = polls and node in polls[-1]["nodes"]
        end = polls[-1]["t"] if kept else free.get(node, 0)
        if end <= died[pid]:
            continue
        took = end - died[pid] - _overlap((died[pid], end), away)
        times.append(took / S)
        if took > (rules.ttl_s + GRACE_S) * S and _could_end(looks, died[pid], end, rules):
            violations.append(
                Violation(
                    "not freed",
                    f"process {pid} died at {_at(died[pid])}, and something of it is there until "
                    f"{_at(end)}, {took / S:.1f} s later without outages",
                )
            )
    return times, violations


def _looks(events: Iterable[Event]) -> dict[int, list[Event]]:
    """By process, when it looked for dead ones."""
    found: dict[int, list[Event]] = defaultdict(list)
    for event in events:
        if event["what"] == "looked":
            found[event["pid"]].append(event)
    return found


def _could_end(looks: Mapping[int, Sequence[Event]], died: int, end: int, rules: Rules) -> bool:
    """Whether somebody looked twice between the two moments, and could have seen what was dead."""
    ttl = round(rules.ttl_s * S)
    for each in looks.values():
        first = next((look["t"] for look in each if look["before"] > died), None)
        if first is None:
            continue
        # The nodes that look on are not dead themselves: the dead end nobody.
        later = [look for look in each if look["before"] >= first + ttl]
        if any(
            look["t"] < end - S and look["node"] == following["node"]
            for look, following in pairwise(later)
        ):
            return True
    return False


def blind(events: Sequence[Event]) -> Iterator[Violation]:
    """Processes that lived and looked for dead ones no more."""
    died = {e["pid"]: e["t"] for e in events if e["what"] == "dead"}
    over = {e["pid"]: e["t"] for e in events if e["what"] == "left"}
    end = max((e["t"] for e in events), default=0)
    away, stopped, hindered = outages(events), stops(events), _hindered(events)
    for pid, each in _looks(events).items():
        last = min(died.get(pid, end), over.get(pid, end))
        for before, after in pairwise([*(look["t"] for look in each), last]):
            span = (before, after)
            took = after - before - _overlap(span, [*away, *stopped.get(pid, ()), *hindered[pid]])
            if took > ANSWER_S * S:
                text = f"process {pid} did not look from {_at(before)} to {_at(after)}"
                yield Violation("blind", text)


def answered(events: Sequence[Event]) -> tuple[list[float], list[Violation]]:
    """How much longer than its wait each call took, without outages; violations where too long.

    Calls that did not return, though their process lived, are violations too.
    """
    died = {e["pid"]: e["t"] for e in events if e["what"] == "dead"}
    stopped = stops(events)
    away = outages(events)
    hindered = _hindered(events)
    called = {}
    times, violations = [], []
    for event in events:
        if event["what"] in ("ask", "call"):
            called[event["call"]] = event
        elif event["what"] in ("granted", "refused", "returned"):
            asked = called.pop(event["call"])
            wait = asked.get("wait", 0)
            if wait is None:
                continue
            pid = event["pid"]
            span = (asked["t"], event["t"])
            away_here = [*away, *stopped.get(pid, ()), *hindered[pid]]
            took_s = (event["t"] - asked["t"] - _overlap(span, away_here)) / S - wait
            times.append(took_s)
            if took_s > ANSWER_S:
                violations.append(Violation("slow", f"{asked} returned {took_s:.1f} s too late"))
    for asked in called.values():
        if asked["pid"] not in died:
            violations.append(Violation("unanswered", f"{asked} never returned"))
    return times, violations


def broken(events: Iterable[Event]) -> Iterator[Violation]:
    """Errors that are none of ours."""
    return (Violation("broken", str(e["text"])) for e in events if e["what"] == "broken")


def left_over(rows: Iterable[Row]) -> Iterator[Violation]:
    """Locks and places in line after everybody has gone."""
    return (
        Violation("left over", f"{row['lock_id']} of {row['holder_id']} is {row['state']}")
        for row in rows
        if row["state"] != "ended"
    )


def _at(moment: int) -> str:
    return f"{moment / S:.4f}"
