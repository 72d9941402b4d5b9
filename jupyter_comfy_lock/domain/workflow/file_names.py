"""Names of files that are made of dates and of other nodes' values: `%date:yyyy-MM-dd%/%Sky.seed%`.

The editor fills them in when it sends a workflow; ComfyUI would take them as they are.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

#: The classes whose `filename_prefix` it does so for.
SAVES = frozenset(
    {
        *("SaveImage", "SaveImageAdvanced", "SaveSVGNode", "SaveVideo", "SaveAnimatedWEBP"),
        *("SaveWEBM", "SaveAudio", "SaveAudioMP3", "SaveAudioOpus", "SaveAudioAdvanced"),
        *("SaveGLB", "Save3DAdvanced", "SaveGaussianSplat", "SavePointCloud", "SaveAnimatedPNG"),
        *("CLIPSave", "VAESave", "ModelSave", "LoraSave", "SaveLatent"),
    }
)
_PLACE = re.compile(r"%([^%]+)%")
_PART = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")
_NOT_IN_NAMES = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')


def filled_in(text: str, *, value_of: Callable[[str, str], Any], now: datetime | None) -> str:
    """Return `text` with its places filled in; those that mean nothing stay as they are.

    `value_of` returns the value of a node's field, None if there is none; without `now` the dates
    stay.
    """

    def fill(match: re.Match[str]) -> str:
        place = match[1]
        parts = place.split(".")
        if len(parts) != 2:
            is_date = now is not None and parts[0].startswith("date:")
            return _date(parts[0][5:], now) if is_date and now is not None else match[0]
        value = value_of(parts[0], parts[1])
        return match[0] if value is None else _NOT_IN_NAMES.sub("_", _text(value))

    return _PLACE.sub(fill, text)


def _date(pattern: str, now: datetime) -> str:
    parts = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        asked = match[0]
        if asked[0] == "y":
            year = str(now.year)
            return {"yy": year[2:], "yyyy": year}.get(asked, asked)
        return str(parts[asked[0]]).rjust(len(asked), "0")

    return _PART.sub(part, pattern)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)
