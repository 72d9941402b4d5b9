"""The fields of a form: what a person may set in a workflow, and what fits there."""

from typing import Any

from jupyter_comfy_lock.domain.workflow.nodes import COMBO, DYNAMIC_COMBO
from jupyter_comfy_lock.domain.workflow.parameters import Parameter

#: Inputs that the editor gives a new number after each run.
_SEEDS = ("seed", "noise_seed")
#: Characters from which on a text gets several lines.
_LONG = 60


def field_of(each: Parameter) -> dict[str, Any]:
    """Return the field for a parameter. Whole numbers are text: a seed is too long for a page."""
    spec = each.spec
    kind = _kind(each)
    options = spec.options if spec is not None else {}
    least, most = spec.range if spec is not None else (None, None)
    choices = list(spec.choices or ()) if spec is not None else []
    return {
        "key": f"{each.node_id}.{each.name}",
        "name": each.name,
        "node_id": each.node_id,
        "title": each.title,
        "class": each.class_type,
        "kind": kind,
        "value": shown_value(each.value),
        "min": shown_value(least),
        "max": shown_value(most),
        "step": options.get("step"),
        "choices": choices,
        "tooltip": str(options.get("tooltip") or ""),
        "seed": kind == "int"
        and (each.name in _SEEDS or bool(options.get("control_after_generate"))),
    }


def shown_value(value: Any) -> Any:
    """Return a value as the page gets it."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if is_whole else value


def _kind(each: Parameter) -> str:
    spec, value = each.spec, each.value
    if spec is not None:
        if spec.upload == "image":
            return "image"
        if spec.type in (COMBO, DYNAMIC_COMBO) and spec.choices is not None and not spec.many:
            return "choice"
        known = {"INT": "int", "FLOAT": "float", "BOOLEAN": "bool"}.get(spec.type)
        if known:
            return known
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "int" if isinstance(value, int) and spec is not None else "float"
    if isinstance(value, str):
        several = spec is not None and spec.options.get("multiline")
        return "long" if several or "\n" in value or len(value) > _LONG else "text"
    return "other"
