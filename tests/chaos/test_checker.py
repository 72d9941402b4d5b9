"""The checker: what it lets pass, and that it finds each thing that it is there to find."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.checker import Report, Rules, check
from tests.chaos.history import Event, History, S, merged, read

RULES = Rules(ttl_s=2.0, margin_s=0.2, capacity={"hot": 1, "wide": 3})


class Story:
    """A history, told in the order of time: each event is 10 ms after the one before."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.rows: list[dict[str, Any]] = []
        self._calls = count()
        self._now = 100 * S
        self._revision = 1000

    def pass_(self, seconds: float) -> None:
        self._now += round(seconds * S)

    def add(self, what: str, pid: int = 1, **more: Any) -> Event:
        self.pass_(0.01)
        event = {"t": self._now, "what": what, "pid": pid, **more}
        self.events.append(event)
        return event

    def revision(self) -> int:
        self._revision += 1
        return self._revision

    def joined(self, pid: int) -> None:
        self.add("joined", pid, node=f"node {pid}", before=self._now)

    def look(self, pid: int, node: str = "node 2") -> None:
        before = self._now
        self.add("looked", pid, node=node, before=before)

    def ask(
        self, lock: str, *, pid: int = 1, wants: Iterable[str] = ("hot",), **more: Any
    ) -> Event:
        """A holder asks; it stands in line from here on, if it is not granted."""
        call = f"{next(self._calls)}"
        holder = more.pop("holder", f"holder of {lock}")
        mode = more.pop("mode", "exclusive")
        asked = dict(call=call, request=lock, holder=holder, wants=list(wants), mode=mode)
        row = dict.fromkeys(("fence", "comfy_id", "was", "ended_by"))
        row |= {"lock_id": lock, "holder_id": holder, "mode": mode, "state": "waiting"}
        row["ticket"] = row["rev"] = self.revision()
        self.rows.append(row)
        return self.add("ask", pid, **asked, wait=more.pop("wait", 0))

    def grant(self, asked: Event, comfy: str | None = None, *, was: str | None = None) -> Event:
        """Its turn comes."""
        row = self.row(asked["request"])
        row |= {"fence": self.revision(), "comfy_id": comfy or asked["wants"][0], "was": was}
        row |= {"state": "held", "rev": row["fence"]}
        return self.add(
            "granted",
            asked["pid"],
            call=asked["call"],
            lock=row["lock_id"],
            holder=row["holder_id"],
            comfy=row["comfy_id"],
            fence=row["fence"],
            mode=row["mode"],
        )

    def refuse(self, asked: Event) -> None:
        self.end(asked["request"])
        self.add("refused", asked["pid"], call=asked["call"], code="lock_refused")

    def lock(self, lock: str, **more: Any) -> Event:
        """A holder asks, and has it at once."""
        return self.grant(self.ask(lock, **more))

    def use(
        self, granted: Event, *, left: float = 1.0, paused_s: float = 0.0, **more: Any
    ) -> Event:
        self.pass_(0.01)
        began = self._now
        self.pass_(paused_s)
        names = ("holder", "comfy", "fence", "mode", "lock")
        said = {name: granted[name] for name in names}
        use = self.add("use", granted["pid"], began=began, left=left, **{**said, **more})
        use["ended"] = use["t"]
        return use

    def end(self, lock: str, ended_by: str = "released") -> None:
        self.row(lock).update(state="ended", rev=self.revision(), ended_by=ended_by)

    def row(self, lock: str) -> dict[str, Any]:
        return next(row for row in self.rows if row["lock_id"] == lock)

    def checked(self, *, ended: bool = False) -> Report:
        self.events.sort(key=lambda event: event["t"])
        return check(self.events, self.rows, RULES, ended=ended)

    def kinds(self, *, ended: bool = False) -> dict[str, int]:
        return dict(self.checked(ended=ended).by_kind)


@pytest.fixture
def story() -> Story:
    """Two processes have joined."""
    story = Story()
    story.joined(1)
    story.joined(2)
    return story


# -- what is well --------------------------------------------------------------------------------


def test_one_after_the_other_is_well(story: Story) -> None:
    for pid, lock in ((1, "a"), (2, "b"), (1, "c")):
        granted = story.lock(lock, pid=pid)
        story.use(granted)
        story.use(granted)
        story.end(lock)
    assert story.kinds(ended=True) == {}


def test_as_many_as_there_is_room_for_share(story: Story) -> None:
    granted = [story.lock(lock, wants=["wide"], mode="shared") for lock in "abc"]
    for each in (*granted, *granted):
        story.use(each)
    assert story.kinds() == {}


def test_who_has_it_alone_lets_others_in_after_using_it_as_one_of_them(story: Story) -> None:
    alone = story.lock("a", wants=["wide"], holder="h")
    story.use(alone)
    asked = story.ask("b", wants=["wide"], holder="h", mode="shared")
    story.use(alone, mode="shared")
    story.end("a", "replaced")
    shared = story.grant(asked, was="exclusive")
    other = story.lock("c", pid=2, wants=["wide"], mode="shared")
    for each in (shared, other, shared):
        story.use(each)
    assert story.kinds() == {}


def test_who_has_it_already_goes_before_those_who_have_it_not(story: Story) -> None:
    shared = story.lock("a", holder="h", wants=["wide"], mode="shared")
    other = story.lock("b", wants=["wide"], mode="shared")
    first = story.ask("c", pid=2, wants=["wide"])
    upgrade = story.ask("d", holder="h", wants=["wide"])
    story.use(shared)
    story.use(other)
    story.end("b")
    story.end("a", "replaced")
    story.grant(upgrade, was="shared")
    story.end("d")
    story.grant(first)
    assert story.kinds() == {}


def test_who_left_the_line_is_not_overtaken(story: Story) -> None:
    story.lock("a")
    gone = story.ask("b")
    asked = story.ask("c")
    story.refuse(gone)
    story.end("a")
    story.grant(asked)
    assert story.kinds() == {}


# -- (1) two at once -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [("exclusive", "exclusive"), ("exclusive", "shared"), ("shared", "exclusive")],
)
def test_a_use_after_a_later_lock_was_granted_is_found(
    story: Story, first: str, second: str
) -> None:
    old = story.lock("a", wants=["wide"], mode=first)
    story.use(old)
    story.end("a")
    story.lock("b", pid=2, wants=["wide"], mode=second)
    story.use(old)
    assert story.kinds() == {"conflict": 1}


def test_a_lock_that_was_used_is_known_also_if_nobody_said_that_it_was_granted(
    story: Story,
) -> None:
    old = story.lock("a")
    story.end("a")
    new = story.lock("b", pid=2)
    story.use(new)
    story.events.remove(new)
    story.events = [event for event in story.events if event.get("request") != "b"]
    story.use(old)
    assert story.kinds() == {"conflict": 1}


def test_a_conflict_with_a_third_is_found_though_ones_own_later_lock_has_the_highest_fence(
    story: Story,
) -> None:
    old = story.lock("a", holder="h")
    story.end("a")
    story.lock("b", pid=2)
    story.end("b")
    story.lock("c", holder="h", pid=2)
    story.use(old)
    assert story.kinds() == {"conflict": 1, "two locks": 1}


def paused(story: Story, *, stop: bool) -> None:
    """A gateway stands still between its check and its forward, for too long."""
    old = story.lock("a")
    use = story.use(old, paused_s=3.0)
    story.end("a", "expired")
    new = story.lock("b", pid=2)
    shift = use["t"] - 1 * S
    for event in story.events:
        if event is new or event.get("request") == "b":
            event["t"] = shift = shift + 1
    if stop:
        story.events += [
            {"t": use["began"] + 1, "what": "stop", "pid": 1},
            {"t": use["t"] - 1, "what": "cont", "pid": 1},
        ]


def test_a_process_that_was_stopped_between_check_and_forward_is_counted_apart(
    story: Story,
) -> None:
    paused(story, stop=True)
    report = story.checked()
    assert report.violations == []
    assert len(report.paused) == 1


def test_nothing_but_being_stopped_excuses_a_late_forward(story: Story) -> None:
    paused(story, stop=False)
    assert story.kinds() == {"conflict": 1}


def test_being_stopped_does_not_excuse_a_check_that_came_too_late(story: Story) -> None:
    old = story.lock("a")
    story.end("a", "expired")
    story.lock("b", pid=2)
    use = story.use(old, paused_s=0.5)
    story.events += [
        {"t": use["began"] + 1, "what": "stop", "pid": 1},
        {"t": use["t"] - 1, "what": "cont", "pid": 1},
    ]
    assert story.kinds() == {"conflict": 1}


def test_that_another_process_was_stopped_excuses_nothing(story: Story) -> None:
    paused(story, stop=True)
    for event in story.events:
        if event["what"] in ("stop", "cont"):
            event["pid"] = 2
    assert story.kinds() == {"conflict": 1}


# -- (2) fences ----------------------------------------------------------------------------------


def test_a_fence_that_was_given_twice_is_found(story: Story) -> None:
    first = story.lock("a", wants=["wide"], mode="shared")
    second = story.lock("b", wants=["wide"], mode="shared")
    second["fence"] = story.row("b")["fence"] = first["fence"]
    assert "fence" in story.kinds()


def test_a_fence_below_one_that_was_given_before_is_found(story: Story) -> None:
    story.lock("a", wants=["wide"], mode="shared")
    later = story.lock("b", wants=["wide"], mode="shared")
    later["fence"] = story.row("b")["fence"] = 17
    assert story.kinds()["fence"] == 1


def test_a_grant_that_the_store_does_not_know_is_found(story: Story) -> None:
    story.lock("a")
    story.rows.clear()
    assert story.kinds() == {"other than stored": 1}


def test_a_grant_that_is_otherwise_in_the_store_is_found(story: Story) -> None:
    story.lock("a")
    story.row("a")["mode"] = "shared"
    assert story.kinds() == {"other than stored": 1}


# -- (3) order -----------------------------------------------------------------------------------


def test_who_is_granted_before_one_who_came_earlier_is_found(story: Story) -> None:
    story.lock("a")
    story.ask("b")
    later = story.ask("c")
    story.end("a")
    story.grant(later)
    assert story.kinds()["overtaken"] == 1


def test_who_is_granted_at_once_though_others_wait_is_found(story: Story) -> None:
    story.lock("a", wants=["wide"], mode="shared")
    story.ask("b", wants=["wide"])
    barging = story.lock("c", wants=["wide"], mode="shared")
    # At once: its ticket is its fence.
    story.row("c")["ticket"] = barging["fence"]
    assert story.kinds()["overtaken"] == 1


def test_one_who_waits_for_any_stands_in_each_line(story: Story) -> None:
    story.lock("a", wants=["wide"])
    story.ask("b", wants=["hot", "wide"])
    later = story.ask("c", wants=["wide"])
    story.end("a")
    story.grant(later)
    assert story.kinds()["overtaken"] == 1


def test_one_who_has_it_and_is_not_served_before_those_who_have_it_not_is_found(
    story: Story,
) -> None:
    story.lock("a", holder="h", wants=["wide"], mode="shared")
    first = story.ask("b", wants=["wide"], mode="shared")
    upgrade = story.ask("c", holder="h", wants=["wide"])
    story.grant(first)
    story.end("b")
    story.end("a", "replaced")
    story.grant(upgrade, was="shared")
    assert story.kinds() == {"overtaken": 1}


def test_of_two_who_have_it_the_later_one_served_first_is_found(story: Story) -> None:
    for lock in "ab":
        story.lock(lock, holder=lock, wants=["wide"], mode="shared")
    first = story.ask("c", holder="a", wants=["wide"])
    second = story.ask("d", holder="b", wants=["wide"])
    story.end("b", "replaced")
    story.grant(second, was="shared")
    story.end("d")
    story.end("a", "replaced")
    story.grant(first, was="shared")
    assert story.kinds()["overtaken"] == 1


# -- (4) room ------------------------------------------------------------------------------------


def test_one_more_than_there_is_room_for_is_found(story: Story) -> None:
    for lock in "abcd":
        story.lock(lock, wants=["wide"], mode="shared")
    assert story.kinds() == {"capacity": 1}


def test_a_grant_beside_a_lock_that_has_not_drained_is_found(story: Story) -> None:
    story.lock("a", wants=["wide"])
    story.row("a")["state"] = "draining"
    story.lock("b", wants=["wide"], mode="shared")
    assert story.kinds() == {"no room": 1}


# -- (5) one lock --------------------------------------------------------------------------------


def test_a_use_of_the_older_of_two_locks_is_found(story: Story) -> None:
    old = story.lock("a", holder="h")
    story.end("a")
    story.lock("b", holder="h", wants=["wide"])
    story.use(old)
    assert story.kinds() == {"two locks": 1}


# -- (6) ends ------------------------------------------------------------------------------------


def died(story: Story, kept_s: float, *, away: bool = False, looked: bool = True) -> Report:
    """A process dies and keeps a lock for so long; another one looks again and again."""
    story.lock("a")
    story.add("dead", 1)
    since = story.events[-1]["t"]
    for _ in range(round(kept_s)):
        story.add("active", nodes=["node 1"])
        if looked:
            story.look(2)
        story.pass_(0.99)
    story.add("active", nodes=[])
    if away:
        story.add("outage", since=since)
    story.end("a", "expired")
    return story.checked()


def test_what_a_dead_process_had_is_free_in_time(story: Story) -> None:
    report = died(story, 6)
    assert report.violations == []
    assert report.freed_s == [pytest.approx(6.0, abs=0.2)]


def test_what_a_dead_process_keeps_for_too_long_is_found(story: Story) -> None:
    assert died(story, 8).by_kind == {"not freed": 1}


def test_nobody_can_free_anything_while_the_store_is_away(story: Story) -> None:
    assert died(story, 8, away=True).violations == []


def test_what_nobody_could_look_at_in_time_is_free_late_enough(story: Story) -> None:
    report = died(story, 8, looked=False)
    assert report.violations == []
    assert report.freed_s == [pytest.approx(8.0, abs=0.2)]


def test_a_process_that_looks_no_more_is_found(story: Story) -> None:
    story.look(2)
    story.pass_(121.0)
    story.add("left", 2)
    assert story.kinds() == {"blind": 1}


def test_a_process_that_is_stopped_need_not_look(story: Story) -> None:
    story.look(2)
    story.add("stop", 2)
    story.pass_(121.0)
    story.add("cont", 2)
    story.look(2)
    assert story.kinds() == {}


def test_what_is_never_free_is_found(story: Story) -> None:
    story.lock("a")
    story.add("dead", 1)
    for _ in range(9):
        story.add("active", nodes=["node 1"])
        story.look(2)
        story.pass_(1.0)
    assert story.kinds()["not freed"] == 1


@pytest.mark.parametrize("state", ["waiting", "held", "draining"])
def test_what_is_left_in_the_end_is_found(story: Story, state: str) -> None:
    story.lock("a")
    story.row("a")["state"] = state
    assert story.kinds(ended=True) == {"left over": 1}


# -- (7) late ------------------------------------------------------------------------------------


def test_a_use_with_nothing_left_of_the_lease_is_found(story: Story) -> None:
    story.use(story.lock("a"), left=-0.001)
    assert story.kinds() == {"late": 1}


def test_a_use_after_the_deadline_is_found_whatever_the_process_thinks_is_left(
    story: Story,
) -> None:
    granted = story.lock("a")
    story.pass_(1.9)
    story.use(granted, left=1.0)
    assert story.kinds() == {"late": 1}


def test_a_renewal_counts_from_before_it_was_sent(story: Story) -> None:
    granted = story.lock("a")
    before = story.events[-1]["t"]
    story.pass_(1.5)
    renewed = story.add("renewed", node="node 1", before=before + round(0.2 * S))
    story.pass_(0.4)
    story.use(granted)
    assert story.kinds() == {}
    renewed["before"] = before
    assert story.kinds() == {"late": 1}


# -- (8) answers ---------------------------------------------------------------------------------


def test_a_call_that_never_returned_is_found(story: Story) -> None:
    story.ask("a")
    story.end("a")
    assert story.kinds() == {"unanswered": 1}


def test_a_call_in_a_process_that_died_need_not_return(story: Story) -> None:
    story.ask("a")
    story.end("a")
    story.add("dead", 1)
    assert story.kinds() == {}


def test_a_wait_that_took_much_longer_than_it_was_to_is_found(story: Story) -> None:
    asked = story.ask("a", wait=1.0)
    story.pass_(121.1)
    story.refuse(asked)
    assert story.kinds() == {"slow": 1}


def test_a_wait_may_take_longer_by_as_much_as_its_process_was_stopped(story: Story) -> None:
    asked = story.ask("a", wait=1.0)
    story.add("stop", 1)
    story.pass_(4.0)
    story.add("cont", 1)
    story.pass_(119.0)
    story.refuse(asked)
    assert story.kinds() == {}


def test_an_error_that_is_none_of_ours_is_found(story: Story) -> None:
    story.add("broken", text="KeyError: 'x'")
    assert story.kinds() == {"broken": 1}


# -- the files -----------------------------------------------------------------------------------


def test_a_use_is_told_until_when_it_went_out(tmp_path: Path) -> None:
    history = History(tmp_path / "a.jsonl", pid=7)
    history.write("joined", node="n")
    for number in range(3):
        history.use(number, fence=number)
    uses = [event for event in read(tmp_path / "a.jsonl") if event["what"] == "use"]
    assert [use["fence"] for use in uses] == [0, 1, 2]
    assert all(use["t"] <= use["ended"] <= after["t"] for use, after in pairwise(uses))
    assert uses[-1]["ended"] == uses[-1]["t"]


def test_a_line_that_was_not_written_whole_is_left_out(tmp_path: Path) -> None:
    whole = json.dumps({"t": 2, "what": "x"}) + "\n"
    (tmp_path / "a.jsonl").write_text(whole + whole[:9])
    (tmp_path / "b.jsonl").write_text(json.dumps({"t": 1, "what": "y"}) + "\n")
    assert [event["what"] for event in merged(tmp_path)] == ["y", "x"]
