"""When is what a server says the same as what was recorded?

JSON must have the same keys and the same values, except where a value cannot be the same:
times, counters, names of files, texts of tracebacks and of tensors. There the type must be.
"""

from __future__ import annotations

import json
from typing import Any

#: Their values differ from run to run or from machine to machine; only the type is compared.
VOLATILE = {
    "create_time",  # milliseconds since the epoch
    "current_inputs",  # texts of tensors there, of arrays here
    "current_outputs",  # what is in the cache at that moment
    "execution_end_time",
    "execution_start_time",
    "filename",  # counters go on and temporary names are random; checked to end alike
    "number",  # the server's counter
    "priority",  # the same counter
    "python_module",  # where the file of a custom node lies
    "search_aliases",  # words for the front end's search box
    "description",  # prose
    "tooltip",  # prose
    "sid",  # minted if the client gave none; the story compares those that were given
    "timestamp",
    "traceback",
}

#: Order means nothing in these: ComfyUI makes them from Python sets.
UNORDERED = {"executed", "dependent_outputs"}

#: Keys that we have on top, and say so.
OURS = {"embedded_server"}


def differences(recorded: Any, live: Any, where: str = "$") -> list[str]:
    """List how `live` differs from `recorded`, each with the path to it."""
    key = where.rsplit(".", 1)[-1]
    if key in VOLATILE:
        return _type_differences(recorded, live, where)
    if isinstance(recorded, dict) and isinstance(live, dict):
        found = []
        if set(recorded) != set(live) - OURS:
            missing, extra = set(recorded) - set(live), set(live) - set(recorded) - OURS
            found.append(f"{where}: missing keys {sorted(missing)}, extra keys {sorted(extra)}")
        for name in recorded.keys() & live.keys():
            found += differences(recorded[name], live[name], f"{where}.{name}")
        return found
    if isinstance(recorded, list) and isinstance(live, list):
        if key in UNORDERED:
            recorded, live = sorted(recorded), sorted(live)
        if key == "jobs":
            # Sorted by milliseconds: prompts sent in the same one come in any order.
            recorded, live = (sorted(x, key=lambda job: job["id"]) for x in (recorded, live))
        if _is_queue_item(recorded) and _is_queue_item(live):
            return _queue_item_differences(recorded, live, where)
        if len(recorded) != len(live):
            return [f"{where}: {len(recorded)} items recorded, {len(live)} live"]
        pairs = enumerate(zip(recorded, live, strict=True))
        return [x for i, (a, b) in pairs for x in differences(a, b, f"{where}[{i}]")]
    if type(recorded) is not type(live) or recorded != live:
        return [f"{where}: recorded {_brief(recorded)}, live {_brief(live)}"]
    return []


def type_differences(recorded: Any, live: Any, where: str = "$") -> list[str]:
    """List where `live` has other keys or types than `recorded`, whatever the values are."""
    if isinstance(recorded, dict) and isinstance(live, dict):
        missing = set(recorded) - set(live)
        found = [f"{where}: missing keys {sorted(missing)}"] if missing else []
        for name in recorded.keys() & live.keys():
            found += type_differences(recorded[name], live[name], f"{where}.{name}")
        return found
    return _type_differences(recorded, live, where)


def _type_differences(recorded: Any, live: Any, where: str) -> list[str]:
    kinds = {type(recorded), type(live)}
    # null stands for "not told" in what describes a machine; an int may have become a float.
    if len(kinds) == 1 or type(None) in kinds or kinds == {int, float}:
        return []
    return [f"{where}: recorded a {type(recorded).__name__}, live a {type(live).__name__}"]


def _is_queue_item(value: list[Any]) -> bool:
    """Whether this is `[number, prompt_id, prompt, extra_data, outputs]`."""
    return len(value) == 5 and isinstance(value[2], dict) and isinstance(value[4], list)


def _queue_item_differences(recorded: list[Any], live: list[Any], where: str) -> list[str]:
    # The number is the server's counter; whether it is a float tells who chose it.
    found = []
    if type(recorded[0]) is not type(live[0]):
        found.append(f"{where}[0]: recorded {recorded[0]!r}, live {live[0]!r}")
    found += differences(recorded[1:4], live[1:4], where)
    return found + differences(sorted(recorded[4]), sorted(live[4]), f"{where}[4]")


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 160 else text[:157] + "..."
