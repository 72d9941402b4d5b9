"""What the description of the REST API says of an answer, and whether the answer is so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from typing import Any

import jsonschema_rs

from jupyter_comfy_lock.server.handlers import HANDLERS
from jupyter_comfy_lock.server.openapi import description

API = "comfy-lock/api"
_VERBS = ("get", "head", "post", "put", "patch", "delete")


def routes() -> Iterator[tuple[str, str]]:
    """Yield the method and the pattern of each call that the REST API answers."""
    for pattern, handler in HANDLERS:
        for verb in _VERBS:
            if verb in vars(handler):
                yield verb.upper(), pattern.removeprefix(API)


def path_of(pattern: str, part: str) -> str:
    """Return a path that a route's pattern matches, with `part` in each of its places."""
    return pattern.replace(r"([^/]+)", part).replace(r"\.", ".")


def closed(schema: Any) -> Any:
    """Return the same description, in which nothing has fields that are not described.

    For others it is open, so that fields can be added. What names more of a schema by `$ref` is no
    whole schema, and stays open.
    """
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(each) for name, each in schema.items()}
    is_schema = isinstance(schema.get("properties"), dict) and "$ref" not in schema
    return {"additionalProperties": False, **inner} if is_schema else inner


@dataclass(frozen=True)
class Operation:
    """One operation of the description."""

    method: str
    path: str
    said: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.said["operationId"])

    def matches(self, path: str) -> bool:
        return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", self.path), path) is not None

    def answer(self, status: int) -> Mapping[str, Any]:
        """Return what is said of answers with that status."""
        said = self.said["responses"].get(str(status))
        assert said is not None, f"{self.name} is not described as answering {status}"
        name = said.get("$ref", "").rpartition("/")[2]
        return dict(_whole()["components"]["responses"][name] if name else said)


@dataclass
class Seen:
    """Which answers have been compared with the description."""

    answers: set[tuple[str, int]] = field(default_factory=set)
    codes: set[str] = field(default_factory=set)


SEEN = Seen()


@cache
def _whole() -> dict[str, Any]:
    # Through JSON: the file has some of its parts in several places.
    whole: dict[str, Any] = closed(json.loads(json.dumps(description())))
    return whole


@cache
def operations() -> list[Operation]:
    """Return all operations; those of paths without parameters first, as they are chosen."""
    found = [
        Operation(verb.upper(), path, {**said, "parameters": about.get("parameters", [])})
        for path, about in _whole()["paths"].items()
        for verb, said in about.items()
        if verb != "parameters"
    ]
    return sorted(found, key=lambda each: "{" in each.path)


def operation(method: str, path: str) -> Operation | None:
    """Return what describes a call of `path` below the Jupyter server's base URL, if anything."""
    below = path.partition("?")[0].removeprefix(API)
    fitting = (x for x in operations() if x.method == method and x.matches(below))
    return next(fitting, None) if path.startswith(f"{API}/") else None


class _Validators:
    """A validator for each schema; made once, since that takes longer than to use it."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def check(self, schema: Any, value: Any, what: str) -> None:
        key = json.dumps(schema, sort_keys=True)
        if key not in self._made:
            whole = {**schema, "components": _whole()["components"]}
            self._made[key] = jsonschema_rs.validator_for(whole)
        found = self._made[key].iter_errors(value)
        wrong = [f"{each.instance_path}: {each.message}" for each in found]
        assert not wrong, f"{what} is not as described: {wrong}\n{json.dumps(value)[:2000]}"


_VALIDATORS = _Validators()


def check_answer(
    method: str, path: str, asked: Mapping[str, str], status: int, headers: Any, body: bytes
) -> None:
    """Fail unless an answer of the REST API is as it is described; others are as they like."""
    found = operation(method, path)
    if found is None or (status == 404 and "Origin" in asked):
        # Jupyter's own refusal of another site's page.
        return
    said = found.answer(status)
    for name, header in said.get("headers", {}).items():
        _VALIDATORS.check(header["schema"], headers.get(name), f"{name} of {found.name} {status}")
    SEEN.answers.add((found.name, status))
    media_types = said.get("content")
    if media_types is None:
        assert body == b"", f"{found.name} {status} has a body"
        return
    media_type = headers.get("Content-Type", "").partition(";")[0]
    fitting = (each for each in media_types if fnmatch(media_type, each))
    chosen = next(fitting, None)
    assert chosen, f"{found.name} {status} is {media_type}, described are {list(media_types)}"
    _check_body(found, status, media_types[chosen], chosen, body)


def _check_body(
    found: Operation, status: int, media_type: Mapping[str, Any], name: str, body: bytes
) -> None:
    what = f"{found.name} {status}"
    if name == "application/json":
        value = json.loads(body, parse_constant=_no_json)
        _VALIDATORS.check(media_type["schema"], value, what)
        if isinstance(value, dict) and "code" in value:
            SEEN.codes.add(value["code"])
    elif name == "application/x-ndjson":
        for line in body.splitlines():
            _check_item(found.name, status, json.loads(line, parse_constant=_no_json))


def check_line(line: Any) -> None:
    """Fail unless a line of the answer to one who waits is as it is described."""
    _check_item("lock", 202, line)


def check_event(name: str, data: str) -> None:
    """Fail unless an event of the stream is as it is described."""
    said = {"event": name, "data": json.loads(data, parse_constant=_no_json)}
    _check_item("listen", 200, said)


def _check_item(name: str, status: int, item: Any) -> None:
    found = next(each for each in operations() if each.name == name)
    (media_type,) = found.answer(status)["content"].values()
    _VALIDATORS.check(media_type["x-itemSchema"], item, f"{name} {status}")
    SEEN.answers.add((name, status))


def _no_json(constant: str) -> None:
    msg = f"{constant} is no JSON"
    raise AssertionError(msg)
