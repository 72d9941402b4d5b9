"""What a person calls a workflow: its formats, parameters and faults, and why it was refused."""

from jupyter_comfy_lock.domain.workflow.prompt import check_api_workflow, classes
from jupyter_comfy_lock.domain.workflow.refusal import (
    dropped_outputs,
    node_error_lines,
    rejection,
)

__all__ = ["check_api_workflow", "classes", "dropped_outputs", "node_error_lines", "rejection"]
