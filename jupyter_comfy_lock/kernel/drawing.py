"""A workflow as a picture and a table, in HTML that GitHub and nbviewer show too.

No script and no style sheet: both are thrown away there. The colours are those of text and of
half-transparent grey, which can be read on white and on black.
"""

import html
from collections.abc import Mapping
from typing import Any

from jupyter_comfy_lock.domain.workflow.check import title_of
from jupyter_comfy_lock.domain.workflow.nodes import NodeSpec
from jupyter_comfy_lock.domain.workflow.parameters import parameters
from jupyter_comfy_lock.domain.workflow.values import is_link

_WIDTH, _HEIGHT = 172, 40
_GAP_X, _GAP_Y = 50, 14
#: More are not drawn: nobody could read it.
_DRAWN = 120
_HUES = ("#4c8dd6", "#c9803a", "#5aa469", "#b06ab3", "#c65b5b", "#3aa6a6", "#9a8f3c", "#7d7fd1")


def drawing(prompt: Mapping[str, Any], specs: Mapping[str, NodeSpec]) -> str:
    """Return the graph of a prompt and a table of its parameters."""
    graph = _svg(prompt) if len(prompt) <= _DRAWN else f"<p>{len(prompt)} nodes</p>"
    rows = "".join(
        f"<tr>{_cell(each.node)}{_cell(each.name)}{_cell(_text(each.value))}</tr>"
        for each in parameters(prompt, specs)
    )
    head = "".join(f'<th style="text-align: left">{x}</th>' for x in ("node", "input", "value"))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return (
        f'<div style="overflow-x: auto">{graph}</div>'
        f"<details><summary>Parameters</summary>{table}</details>"
    )


def columns(prompt: Mapping[str, Any]) -> dict[str, int]:
    """Return how far right each node stands: right of all that it needs."""
    found: dict[str, int] = {}
    for start in prompt:
        stack = [(start, False)]
        open_now: set[str] = set()
        while stack:
            node_id, leaving = stack.pop()
            if leaving:
                open_now.discard(node_id)
                before = [found.get(x, -1) for x in _sources(prompt, node_id)]
                found[node_id] = max(before, default=-1) + 1
            elif node_id not in found and node_id not in open_now:
                open_now.add(node_id)
                stack.append((node_id, True))
                stack += [(x, False) for x in _sources(prompt, node_id)]
    return found


def _svg(prompt: Mapping[str, Any]) -> str:
    column = columns(prompt)
    rows: dict[int, int] = {}
    at: dict[str, tuple[int, int]] = {}
    for node_id in prompt:
        x = column[node_id]
        y = rows[x] = rows.get(x, -1) + 1
        at[node_id] = (x * (_WIDTH + _GAP_X) + 4, y * (_HEIGHT + _GAP_Y) + 4)
    links = "".join(
        _link(at[source], at[node_id])
        for node_id in prompt
        for source in dict.fromkeys(_sources(prompt, node_id))
    )
    nodes = "".join(_node(node_id, prompt[node_id], at[node_id]) for node_id in prompt)
    width = max(x for x, _ in at.values()) + _WIDTH + 4
    height = max(y for _, y in at.values()) + _HEIGHT + 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12" role="img" '
        f'aria-label="Workflow of {len(prompt)} nodes">{links}{nodes}</svg>'
    )


def _node(node_id: str, node: Mapping[str, Any], place: tuple[int, int]) -> str:
    x, y = place
    kind = str(node.get("class_type"))
    colour = _HUES[sum(map(ord, kind)) % len(_HUES)]
    title = html.escape(_cut(title_of(node)))
    below = html.escape(_cut(f"{node_id} · {kind}"))
    full = html.escape(f"{title_of(node)} ({kind}, node {node_id})")
    return (
        f'<g><title>{full}</title><rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="5" '
        f'fill="{colour}" fill-opacity="0.18" stroke="{colour}"/>'
        f'<text x="{x + 8}" y="{y + 17}" fill="currentColor">{title}</text>'
        f'<text x="{x + 8}" y="{y + 32}" fill="#888" font-size="10">{below}</text></g>'
    )


def _link(source: tuple[int, int], target: tuple[int, int]) -> str:
    x1, y1 = source[0] + _WIDTH, source[1] + _HEIGHT // 2
    x2, y2 = target[0], target[1] + _HEIGHT // 2
    bend = max(20, (x2 - x1) // 2)
    return (
        f'<path d="M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}" '
        'fill="none" stroke="#888" stroke-width="1.5"/>'
    )


def _sources(prompt: Mapping[str, Any], node_id: str) -> list[str]:
    inputs = prompt[node_id].get("inputs")
    values = inputs.values() if isinstance(inputs, Mapping) else ()
    return [value[0] for value in values if is_link(value) and value[0] in prompt]


def _cell(text: str) -> str:
    return f'<td style="text-align: left; vertical-align: top">{html.escape(text)}</td>'


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 300 else f"{text[:299]}…"


def _cut(text: str) -> str:
    return text if len(text) <= 22 else f"{text[:21]}…"
