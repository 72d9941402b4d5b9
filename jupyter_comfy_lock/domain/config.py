"""The pool as it is configured, turned into values that cannot be wrong."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from jupyter_comfy_lock.domain.errors import ConfigError
from jupyter_comfy_lock.domain.lock import ComfyId
from jupyter_comfy_lock.domain.pool import ComfyServer

_KEYS = {"id", "url", "headers", "labels", "capacity"}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasePolicy:
    """How long a silent node or attached holder keeps its locks. All times in seconds."""

    ttl_s: float = 30.0  #: a lease that was not renewed for this long ends
    renew_every_s: float = 5.0  #: leaves room for missed renewals
    margin_s: float = 3.0  #: the gateway stops this long before the lease ends
    #: Prompts of a holder that let go are waited for so long by others before they are cancelled.
    drain_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse settings that would lose a healthy kernel's lock."""
        if not 0 < self.renew_every_s <= (self.ttl_s - self.margin_s) / 2:
            why = (
                f"must be above 0 and at most half of lease_ttl_s minus the margin "
                f"({self.ttl_s} s - {self.margin_s} s), got {self.renew_every_s} s: one late "
                "renewal would lose the locks"
            )
            raise ConfigError(key="renew_every_s", why=why)


def lease_policy(ttl_s: float, drain_timeout_s: float = 60.0) -> LeasePolicy:
    """Return the policy for `c.ComfyLock.lease_ttl_s` and `c.ComfyLock.drain_timeout_s`.

    Raises:
        ConfigError: no lease could be kept for so short a time.
    """
    if not 1.0 <= ttl_s < float("inf"):
        raise ConfigError(key="lease_ttl_s", why=f"must be at least 1 s, got {ttl_s} s")
    if not drain_timeout_s >= 0:
        why = f"must be 0 s or more, got {drain_timeout_s} s"
        raise ConfigError(key="drain_timeout_s", why=why)
    return LeasePolicy(
        ttl_s=ttl_s,
        renew_every_s=ttl_s / 6,
        margin_s=ttl_s / 10,
        drain_timeout_s=drain_timeout_s,
    )


def parse_pool(entries: object) -> tuple[ComfyServer, ...]:
    """Return the pool that `c.ComfyLock.pool` describes.

    Raises:
        ConfigError: names the key that is wrong, and why.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ConfigError(
            key="pool", why=f"must be a list of mappings, got {type(entries).__name__}"
        )
    pool = tuple(_comfy(entry, f"pool[{place}]") for place, entry in enumerate(entries))
    seen: dict[str, int] = {}
    urls: dict[str, int] = {}
    for place, comfy in enumerate(pool):
        if comfy.comfy_id in seen:
            why = f"{comfy.comfy_id!r} is the id of pool[{seen[comfy.comfy_id]}] already"
            raise ConfigError(key=f"pool[{place}].id", why=why)
        if comfy.url in urls:
            why = f"{comfy.url} is that of pool[{urls[comfy.url]}] already: one server, one lock"
            raise ConfigError(key=f"pool[{place}].url", why=why)
        seen[comfy.comfy_id] = place
        urls[comfy.url] = place
    return pool


def _comfy(entry: object, key: str) -> ComfyServer:
    if not isinstance(entry, Mapping):
        raise ConfigError(key, f"must be a mapping, got {type(entry).__name__}")
    unknown = sorted(str(name) for name in set(entry) - _KEYS)
    if unknown:
        why = f"unknown key; known: {', '.join(sorted(_KEYS))}"
        raise ConfigError(key=f"{key}.{unknown[0]}", why=why)
    return ComfyServer(
        comfy_id=_id(entry.get("id"), f"{key}.id"),
        url=_url(entry.get("url"), f"{key}.url"),
        headers=_headers(entry.get("headers", {}), f"{key}.headers"),
        labels=_labels(entry.get("labels", ()), f"{key}.labels"),
        capacity=_capacity(entry.get("capacity", 4), f"{key}.capacity"),
    )


def _id(value: object, key: str) -> ComfyId:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        why = f"must be 1 to 64 letters, digits, '.', '_' or '-', got {value!r}"
        raise ConfigError(key, why)
    return ComfyId(value)


def _url(value: object, key: str) -> str:
    if isinstance(value, str) and any(mark in value for mark in "@?#"):
        # The URL is shown to users, so a secret in it would be too; here also.
        why = "must not carry a user, password or query; put credentials in `headers`"
        raise ConfigError(key, why)
    if not isinstance(value, str) or not _is_url(value):
        raise ConfigError(key, f"must be like 'http://host:8188', got {value!r}")
    return value.rstrip("/")


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return False
    # urlsplit drops some of these and passes others on.
    return bool(good) and text.isprintable() and " " not in text


def _headers(value: object, key: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ConfigError(key, f"must be a mapping, got {type(value).__name__}")
    for name, text in value.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ConfigError(key, f"{name!r} is no name of an HTTP header")
        if not isinstance(text, str) or not text.isprintable():
            # The value is not shown: it may be a secret.
            raise ConfigError(key=f"{key}.{name}", why="must be one line of text")
    return dict(value)


def _labels(value: Any, key: str) -> frozenset[str]:
    if isinstance(value, str) or not all(isinstance(each, str) for each in _listed(value, key)):
        raise ConfigError(key, f"must be a list of text, got {value!r}")
    return frozenset(value)


def _listed(value: Any, key: str) -> list[Any]:
    if not isinstance(value, Sequence | set | frozenset):
        raise ConfigError(key, f"must be a list, got {type(value).__name__}")
    return list(value)


def _capacity(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(key, f"must be a whole number above 0, got {value!r}")
    return value
