"""Requests of the REST API that no client would send, one for each way to be strange."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import jsonschema_rs

from jupyter_comfy_lock.server.openapi import description
from tests.server.described import API, Operation, operations

LONG = "x" * 100_000
#: Values as they are written in JSON: Python itself cannot make all of them.
VALUES = (
    *("null", "true", "0", "-1", "1.5", "1e308", "1e400", "-0.0", "NaN", "-Infinity"),
    *("1" + "0" * 400, "1" + "0" * 5000, "65536", "9007199254740993"),
    *(
        '""',
        '" "',
        '"\\u0000"',
        '"a\\u0000b"',
        '"\\ud800"',
        '"\\udfff\\ud800"',
        '"gpu-1\\n"',
        '"é"',
    ),
    *(
        '"attached-\\ud800"',
        '"attached-\\u0000"',
        '"attached-\\u001b[2J"',
        '"attached-' + LONG + '"',
    ),
    *('"../.."', '"%00"', '"gpu-1 "', '"GPU-1"', '"null"', '"NaN"', f'"{LONG}"'),
    *("[]", "{}", "[null]", '[""]', '["\\ud800"]', "[[[]]]", '{"": {}}', '{"a": 1, "a": 2}'),
    *("[" * 300 + "]" * 300, '{"a":' * 900 + "1" + "}" * 900, "[" * 20_000 + "]" * 20_000),
    "[" + ",".join(["1"] * 20_000) + "]",
)
PARTS = (
    *("0", "-1", "%00", "a%00b", "%ff", "%ed%a0%80", "%c3%28", "%0a", "%1b%5b2J", "%20", "%09"),
    *(
        "..",
        ".",
        "%2e%2e",
        "%2e",
        "%2f",
        "..%2f..",
        "%5c",
        "%25",
        "%",
        "%zz",
        "a;b",
        "a,b",
        "*",
        "~",
    ),
    *(
        "null",
        "undefined",
        "NaN",
        "1e3",
        "00",
        "0x1",
        "1000000",
        "%d9%a3",
        "%f0%9f%98%80",
        "x" * 20_000,
    ),
)
BODIES = (
    *(b"{", b"}", b"[1]", b'"x"', b"7", b"null", b"{'a': 1}", b'{"a": 1,}', b'{"a": 1} {"a": 1}'),
    *(b"\0", b"{\0}", b"\xff\xfe{}", b"\xed\xa0\x80", b'{"a": "\xff"}', b"\xef\xbb\xbf{}"),
    *('{"a": 1}'.encode("utf-16"), b"[" * 100_000, b'{"a":' * 100_000, b"a=1&b=2", b"--x\r\n\r\n"),
)
HEADERS = (
    *(("Content-Type", each) for each in ("", "text/plain", "application/json; charset=utf-16")),
    *(
        ("Content-Type", each)
        for each in ("application/x-www-form-urlencoded", "multipart/form-data")
    ),
    *(("Content-Type", each) for each in ("multipart/form-data; boundary=x", "x", "é/é", ";;;")),
    *(("Content-Encoding", each) for each in ("gzip", "deflate", "x")),
    *(("Accept", each) for each in ("text/html", "", "é", "application/xml;q=x")),
    *(("Range", each) for each in ("bytes=0-0", "bytes=-1", "bytes=9-1", "bytes=x", "x")),
    *(("If-None-Match", each) for each in ("*", '"x"', "é")),
    *(("If-Modified-Since", each) for each in ("x", "Thu, 01 Jan 1970 00:00:00 GMT")),
    *(
        ("Cookie", each)
        for each in ("a", "=;=", "_xsrf=x", "username-127-0-0-1=é", "x=" + "y" * 4000)
    ),
    *(("X-Forwarded-For", "x"), ("X-Forwarded-Proto", "x"), ("X-Scheme", "x")),
    *(
        ("Sec-Fetch-Site", "cross-site"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("Upgrade", "websocket"),
    ),
    *(("Expect", "x"), ("Accept-Encoding", "gzip, x"), ("Referer", "http://evil.example/")),
)


#: What may stand in a workflow wherever there is text: ComfyUI has to know what to do with it.
TEXTS = (
    "\0",
    "\ud800",
    "\udc80",
    "\ud800.png",
    "\0.png [output]",
    "..",
    "a/b",
    "%",
    "\n",
    "é",
    LONG,
)


def prompts() -> Iterator[Any]:
    """Yield workflows that are none that ComfyUI could run, but have the form of one."""
    image = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
    for text in TEXTS:
        saved = {"images": ["1", 0], "filename_prefix": text}
        drawn = {"1": {"class_type": "EmptyImage", "inputs": image}}
        yield {"1": {"class_type": text}}
        yield {text: {"class_type": "PreviewImage", "inputs": {"images": [text, 0]}}}
        yield {"1": {"class_type": "LoadImage", "inputs": {"image": text, text: text}}}
        yield {**drawn, "2": {"class_type": "SaveImage", "inputs": saved}}
    for number in (float("nan"), float("inf"), 10**400, -1, 1.5):
        yield {"1": {"class_type": "EmptyImage", "inputs": {**image, "width": number}}}
        drawn = {"class_type": "EmptyImage", "inputs": {**image, "color": number}}
        yield {"1": drawn, "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}


@dataclass(frozen=True)
class Strange:
    """One request, and what is wrong with it."""

    operation: Operation
    path: str
    body: bytes | None
    headers: tuple[tuple[str, str], ...] = ()
    #: The field that is not as it must be, if one is.
    wrong: str | None = None


def requests_of(
    operation: Operation, parts: dict[str, str], headers: Sequence[tuple[str, str]]
) -> Iterator[Strange]:
    """Yield an operation's requests; `parts` are what stands in its path where that is right."""
    good = Strange(operation, path(operation, parts), example(operation))
    for parameter in operation.said["parameters"]:
        for part in PARTS:
            named = {**parts, parameter["name"]: part}
            yield Strange(operation, path(operation, named), good.body)
    for field, schema in fields(operation).items():
        for value in VALUES:
            wrong = what_is_wrong(field, schema, value)
            yield Strange(operation, good.path, with_field(good.body, field, value), wrong=wrong)
    for prompt in prompts() if "prompt" in fields(operation) else ():
        yield Strange(operation, good.path, json.dumps({"prompt": prompt}).encode())
    for body in BODIES if fields(operation) else BODIES[:2]:
        wrong = "body" if fields(operation) else None
        yield Strange(operation, good.path, body, wrong=wrong)
    for header in headers:
        yield Strange(operation, good.path, good.body, (header,))


def random_request(operation: Operation, parts: dict[str, str], random: Random) -> Strange:
    """Return a request in which several things may be strange."""
    named = {x: random.choice(PARTS) if random.random() < 0.3 else y for x, y in parts.items()}
    body = example(operation)
    if body is not None and random.random() < 0.5:
        place = random.randrange(len(body))
        body = body[:place] + random.randbytes(random.randint(0, 3)) + body[place + 1 :]
    headers = dict(random.choices(HEADERS, k=random.randint(0, 3)))
    return Strange(operation, path(operation, named), body, tuple(headers.items()))


def path(operation: Operation, parts: dict[str, str]) -> str:
    return API + operation.path.format(**parts)


def fields(operation: Operation) -> dict[str, Any]:
    """Return the schemas of the fields of an operation's body."""
    body = operation.said.get("requestBody")
    if body is None:
        return {}
    name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return dict(description()["components"]["schemas"][name]["properties"])


def example(operation: Operation) -> bytes | None:
    """Return the first body that the description gives as an example."""
    body = operation.said.get("requestBody")
    if body is None:
        return None
    first = next(iter(body["content"]["application/json"]["examples"].values()))
    return json.dumps(first["value"]).encode()


def with_field(body: bytes | None, field: str, value: str) -> bytes:
    rest = {name: each for name, each in json.loads(body or b"{}").items() if name != field}
    return b"{" + f'"{field}": {value}, '.encode() + json.dumps({**rest, "": 0}).encode()[1:]


def what_is_wrong(field: str, schema: Any, value: str) -> str | None:
    """Return what the description does not allow of a field with a value, written in JSON."""
    whole = {**schema, "components": description()["components"]}
    try:
        said = json.loads(value)
    except (ValueError, RecursionError):
        return "body"
    try:
        return None if jsonschema_rs.is_valid(whole, said) else field
    except ValueError:
        # Half a character.
        return field


def strange_requests(parts: dict[str, str]) -> Iterator[Strange]:
    """Yield each strange request of all operations that end."""
    for number, operation in enumerate(operations()):
        if operation.name != "listen":
            # Mostly headers are read before anybody knows which operation it is.
            yield from requests_of(operation, parts, HEADERS[number % 3 :: 3])
