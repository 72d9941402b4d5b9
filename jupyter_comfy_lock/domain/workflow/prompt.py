"""A prompt in ComfyUI's API format: `{node id: {class_type, inputs}}`, and whether one is."""

from collections.abc import Mapping
from typing import Any

from jupyter_comfy_lock.domain.errors import InvalidWorkflow
from jupyter_comfy_lock.domain.workflow.values import is_link


def check_api_workflow(workflow: object) -> dict[str, Any]:
    """Return `workflow` as a prompt in ComfyUI's API format: `{node id: {class_type, inputs}}`.

    Everything that can be told without the ComfyServer is told at once, for all nodes.

    Raises:
        InvalidWorkflow: it is not in API format; the message names each wrong node.
    """
    if not isinstance(workflow, Mapping):
        msg = (
            "A workflow is a mapping {node id: {'class_type': …, 'inputs': {…}}}, "
            f"got {type(workflow).__name__}."
        )
        raise InvalidWorkflow(msg)
    if isinstance(workflow.get("nodes"), list) and "links" in workflow:
        msg = (
            "This is a workflow in the format of ComfyUI's editor: comfy.Workflow.load() makes a "
            'prompt of it, or export it in API format (in ComfyUI: menu Workflow, "Export (API)").'
        )
        raise InvalidWorkflow(msg)
    if not workflow:
        msg = "The workflow is empty: it has no nodes."
        raise InvalidWorkflow(msg)
    ids = {str(key) for key in workflow}
    wrong = {str(key): why for key, node in workflow.items() if (why := _wrong(node, ids))}
    if wrong:
        lines = "".join(f"\n  node {node_id}: {why}" for node_id, why in wrong.items())
        msg = f"The workflow is not in ComfyUI's API format:{lines}"
        raise InvalidWorkflow(msg, nodes=wrong)
    return {str(key): dict(node) for key, node in workflow.items()}


def classes(prompt: Mapping[str, Any]) -> dict[str, str]:
    """Return the class of each node of a prompt."""
    return {str(key): str(node.get("class_type")) for key, node in prompt.items()}


def _wrong(node: object, ids: set[str]) -> str | None:
    if not isinstance(node, Mapping):
        return f"must be an object, got {type(node).__name__}"
    if not isinstance(node.get("class_type"), str) or not node["class_type"]:
        return "has no class_type"
    inputs = node.get("inputs", {})
    if not isinstance(inputs, Mapping):
        return f"inputs must be an object, got {type(inputs).__name__}"
    missing = [
        f"{name!r} is linked to node {value[0]!r}, which does not exist"
        for name, value in inputs.items()
        if is_link(value) and str(value[0]) not in ids
    ]
    return "; ".join(missing) or None
