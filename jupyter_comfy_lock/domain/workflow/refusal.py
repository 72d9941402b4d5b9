"""Why ComfyUI refused a prompt, or outputs of it, in words."""

from collections.abc import Mapping
from typing import Any

from jupyter_comfy_lock.domain.comfy import items, mapping
from jupyter_comfy_lock.domain.errors import PromptRejected
from jupyter_comfy_lock.domain.progress import progress_of


def rejection(
    task_id: str,
    holder: str,
    comfy_id: str,
    answer: Mapping[str, Any],
    unknown: Mapping[str, str] | None = None,
) -> PromptRejected:
    """Return the error for ComfyUI's refusal `answer` of a prompt: every node and reason at once.

    `answer` is the body of a 400 to `POST /prompt`: `{"error": …, "node_errors": …}`. ComfyUI stops
    at the first node of a class that it does not have; `unknown` names them all, by node id.
    """
    error = answer.get("error")
    error = dict(error) if isinstance(error, Mapping) else {"message": str(error or "no reason")}
    node_errors = answer.get("node_errors")
    node_errors = dict(node_errors) if isinstance(node_errors, Mapping) else {}
    reasons = list(node_error_lines(node_errors)) or [
        f"node {node_id} ({class_type}): this ComfyServer has no such node. Custom nodes missing?"
        for node_id, class_type in (unknown or {}).items()
    ]
    if not reasons:
        details = str(error.get("details") or "")
        reasons = [f"{error.get('message', 'no reason')}" + (f" ({details})" if details else "")]
    lines = "".join(f"\n  {reason}" for reason in reasons)
    return PromptRejected(
        f"ComfyServer {comfy_id!r} refused the prompt of kernel {holder} (task {task_id}); "
        f"nothing ran:{lines}",
        task_id=task_id,
        comfy_id=comfy_id,
        error=error,
        node_errors=node_errors,
    )


def dropped_outputs(node_errors: Mapping[str, Any], prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Name the outputs that ComfyUI will not make while it runs the rest, and what is to blame.

    `node_errors` is of a 200 to `POST /prompt`. Returns `{node id: {class_type, errors}}`.
    """
    entries = {node_id: mapping(entry) for node_id, entry in node_errors.items()}
    refused = {
        str(output)
        for entry in entries.values()
        for output in items(entry.get("dependent_outputs"))
    }
    outputs = refused or set(entries)
    # ComfyUI lists under `dependent_outputs` also outputs that do not depend on the node: all that
    # it checked later.
    needed = {output: progress_of(prompt, [output]).needed for output in outputs}
    return {
        output: {
            "class_type": str(prompt.get(output, {}).get("class_type", "?")),
            "errors": [
                {**mapping(error), "node_id": node_id, "node_class": entry.get("class_type")}
                for node_id, entry in entries.items()
                if node_id in needed[output]
                for error in items(entry.get("errors"))
            ],
        }
        for output in sorted(outputs)
    }


def node_error_lines(node_errors: Mapping[str, Any]) -> list[str]:
    """Return one line per fault: node, class, input and reason.

    An error may name the node that is to blame itself (`node_id`, `node_class`), as those of
    dropped outputs do: an output is dropped for a fault in what it needs.
    """
    lines = []
    for node_id, entry in node_errors.items():
        if not isinstance(entry, Mapping):
            lines.append(f"node {node_id}: {entry}")
            continue
        errors = entry.get("errors")
        for error in errors if isinstance(errors, list) and errors else [{}]:
            if not isinstance(error, Mapping):
                lines.append(f"node {node_id} ({entry.get('class_type', '?')}): {error}")
                continue
            extra = error.get("extra_info")
            name = extra.get("input_name") if isinstance(extra, Mapping) else None
            where = (
                f"node {error.get('node_id', node_id)} "
                f"({error.get('node_class', entry.get('class_type', '?'))})"
            )
            where += f", input {name!r}" if name else ""
            details = str(error.get("details") or "")
            why = str(error.get("message") or "refused")
            lines.append(f"{where}: {why}" + (f" ({details})" if details else ""))
    return lines
