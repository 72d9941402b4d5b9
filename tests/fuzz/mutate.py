"""Recorded traffic of ComfyUI's clients, changed at random: never a valid client's, near to one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

TRACES = Path(__file__).parent.parent / "conformance" / "traces"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
#: What programs tend not to expect.
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, 10**30, "", " ", "\0", "..", "../..", "%2e%2e", "x" * 5000, "é",
    [], {}, [[]], [None], {"": {}}, "NaN", float("nan"), "true",
)  # fmt: skip


@dataclass(frozen=True)
class Call:
    """One request of a client, as it will be sent."""

    method: str
    #: Below the gateway's base, without a slash at its beginning, with its query.
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


def recorded() -> list[Call]:
    """Return each request of the recordings that is sent with JSON or without a body."""
    found: dict[Call, None] = {}
    for trace in sorted(TRACES.glob("*.json")):
        for event in json.loads(trace.read_text())["events"]:
            if event["kind"] != "http_request":
                continue
            body, headers = None, ()
            if "json" in event:
                body, headers = dumped(event["json"]), (("Content-Type", "application/json"),)
            path = event["path"].lstrip("/")
            found[Call(event["method"], path, headers, body)] = None
    return list(found)


def recorded_frames() -> list[str]:
    """Return each text frame that a ComfyUI of the recordings sent."""
    return [
        json.dumps(event["msg"])
        for trace in sorted(TRACES.glob("*.json"))
        for event in json.loads(trace.read_text())["events"]
        if event["kind"] == "ws_recv" and isinstance(event.get("msg"), dict)
    ]


def recorded_answers() -> dict[str, list[Any]]:
    """Return the JSON that a ComfyUI of the recordings answered, by what stands first in a path."""
    found: dict[str, list[Any]] = {}
    for trace in sorted(TRACES.glob("*.json")):
        path = ""
        for event in json.loads(trace.read_text())["events"]:
            if event["kind"] == "http_request":
                path = first_part(event["path"])
            elif event["kind"] == "http_response" and isinstance(event.get("body"), dict | list):
                found.setdefault(path, []).append(event["body"])
    return found


def first_part(path: str) -> str:
    """Return "queue" for "/api/queue?x=y"."""
    return path.removeprefix("/api").lstrip("/").partition("?")[0].partition("/")[0]


#: Numbers in JSON, that are written where others may stand.
_NUMBER = re.compile(r"(?<=: )-?\d+(\.\d+)?")


def with_no_numbers(text: str, random: Random) -> str:
    """Return JSON whose numbers are none when they have been read."""
    return _NUMBER.sub(random.choice(["1e999", "NaN", "-1e999"]), text)


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode(errors="surrogatepass")


class Mutator:
    """Makes new calls of old ones. `names` are worth trying wherever a text stands."""

    def __init__(self, seeds: Sequence[Call], names: Sequence[str], random: Random) -> None:
        self._seeds = seeds
        self._names = names
        self._random = random
        on_line = (self._method, self._path, self._query, self._header)
        self._ways: tuple[Callable[[Call], Call], ...] = (
            *on_line,
            self._json,
            self._json,
            self._bytes,
        )

    def call(self) -> Call:
        call = self._random.choice(self._seeds)
        for _ in range(self._random.randint(0, 3)):
            call = self._random.choice(self._ways)(call)
        return call

    def frame(self) -> str | bytes:
        """Return what a client might say on its socket."""
        random = self._random
        if random.random() < 0.3:
            return random.randbytes(random.randint(0, 200))
        kinds = ("feature_flags", "status", "executing", "executed", "", "progress_state")
        said = {"type": random.choice(kinds), "data": self.value({"a": 1, "prompt_id": "x"})}
        text = json.dumps(said if random.random() < 0.7 else self.value(said))
        return text[: random.randint(0, len(text))] if random.random() < 0.3 else text

    def _method(self, call: Call) -> Call:
        return replace(call, method=self._random.choice(METHODS))

    def _path(self, call: Call) -> Call:
        path, mark, query = call.path.partition("?")
        parts = path.split("/")
        place = self._random.randrange(len(parts))
        part = parts[place]
        others = [each.path.split("/")[0] for each in self._random.choices(self._seeds, k=3)]
        encoded = "".join(f"%{byte:02x}" for byte in part.encode())
        names = (self._name(), quote(self._name(), safe=""), "internal", "ws", "", ".", "..")
        strange = ("%2e%2e", part + "%00", part + ";x", part[:-1], encoded, part.upper())
        joined = (f"{part}/", f"/{part}", f"api/{part}", f"{part}/..", f"{part}/{part}")
        parts[place] = self._random.choice([*others, *names, *strange, *joined])
        return replace(call, path=_printable("/".join(parts)) + mark + query)

    def _query(self, call: Call) -> Call:
        path, _, query = call.path.partition("?")
        keys = ("filename", "subfolder", "type", "preview", "channel", "max_items", "offset")
        keys += ("limit", "status", "clientId", "token", "sort_by", "x")
        added = f"{self._random.choice(keys)}={quote(self._name(), safe='')}"
        pairs = [each for each in query.split("&") if each]
        if pairs and self._random.random() < 0.3:
            pairs.pop(self._random.randrange(len(pairs)))
        pairs.insert(self._random.randint(0, len(pairs)), added)
        return replace(call, path=f"{path}?{'&'.join(pairs)}")

    def _json(self, call: Call) -> Call:
        try:
            value = json.loads(call.body or b"{}")
        except ValueError:
            value = {}
        keys = ("clear", "delete", "prompt_id", "job_ids", "number", "front", "extra_data")
        if isinstance(value, dict) and self._random.random() < 0.4:
            value[self._random.choice(keys)] = self._strange()
        headers = (("Content-Type", "application/json"),)
        return replace(call, body=dumped(self.value(value)), headers=headers)

    def _header(self, call: Call) -> Call:
        random = self._random
        types = ("text/plain", "multipart/form-data", "multipart/form-data; boundary=x", "a/b;c")
        added = random.choice(
            [
                ("Range", f"bytes={random.randint(-5, 99)}-{random.randint(-5, 99)}"),
                ("Content-Type", random.choice(types)),
                ("If-None-Match", '"x"'),
                ("Origin", "https://evil.example"),
                ("Accept-Encoding", "gzip, x"),
                ("Cookie", "a=b"),
                ("Content-Encoding", "gzip"),
                ("Authorization", "token x"),
                ("Sec-Fetch-Site", "cross-site"),
                ("X-HTTP-Method-Override", "DELETE"),
                ("Comfy-User", self._names[0]),
            ]
        )
        return replace(call, headers=(*call.headers, added))

    def _bytes(self, call: Call) -> Call:
        body = bytearray(call.body or b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\n")
        for _ in range(self._random.randint(1, 4)):
            place = self._random.randrange(len(body) + 1)
            body[place : place + self._random.randint(0, 3)] = self._random.randbytes(2)
        return replace(call, body=bytes(body))

    def value(self, value: Any) -> Any:
        """Return JSON with one place of it changed."""
        random = self._random
        if random.random() < 0.25:
            return self._strange()
        if isinstance(value, dict) and value:
            key = random.choice(sorted(value))
            return {**value, key: self.value(value[key])}
        if isinstance(value, list) and value:
            place = random.randrange(len(value))
            return [*value[:place], self.value(value[place]), *value[place + 1 :]]
        return self._strange() if random.random() < 0.5 else value

    def _strange(self) -> Any:
        one = self._random.choice(STRANGE)
        if self._random.random() < 0.5:
            return one
        return self._random.choice([self._name(), [self._name()], {"x": self._name()}])

    def _name(self) -> str:
        return self._random.choice(self._names)


def _printable(path: str) -> str:
    """Leave a path that can stand in a request line."""
    return "".join(each if "!" <= each <= "~" and each != "#" else quote(each) for each in path)
