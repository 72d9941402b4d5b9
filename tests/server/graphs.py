"""Small workflows in API format."""

from __future__ import annotations

from itertools import count
from typing import Any

#: Another number each time, so that no graph's result is known to ComfyUI already.
fresh = count(1)


def picture(color: int | None = None, *, prefix: str = "pic", size: int = 8) -> dict[str, Any]:
    """A picture of one colour, saved."""
    color = next(fresh) if color is None else color
    image = {"width": size, "height": size, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": image},
        "2": {
            "class_type": "SaveImage",
            "inputs": {"images": ["1", 0], "filename_prefix": prefix},
        },
    }


def steps(number: int = 100, *, delay: float = 0.05, preview: bool = False) -> dict[str, Any]:
    """A node that takes its time and can be stopped at each step, then a picture."""
    inputs = {"steps": number, "delay": delay, "preview": preview, "seed": next(fresh)}
    return {
        "1": {"class_type": "TrSteps", "inputs": inputs},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def last_node_sleeps(seconds: float) -> dict[str, Any]:
    """One output node that hears no interrupt."""
    return {
        "1": {"class_type": "TrSlowOut", "inputs": {"seconds": seconds, "seed": next(fresh)}},
    }


def raises(message: str = "boom") -> dict[str, Any]:
    """A node that raises."""
    return {
        "1": {"class_type": "TrRaise", "inputs": {"message": message, "seed": next(fresh)}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def says(text: str) -> dict[str, Any]:
    """A node that broadcasts a progress text, which says not whose it is."""
    return {"1": {"class_type": "TrTextOut", "inputs": {"text": text}}}
