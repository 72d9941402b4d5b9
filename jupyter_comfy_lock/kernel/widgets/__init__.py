"""Widgets: views that follow what they show by themselves."""

from jupyter_comfy_lock.kernel.widgets.lock_view import LockView as LockView
from jupyter_comfy_lock.kernel.widgets.panel import Panel as Panel
from jupyter_comfy_lock.kernel.widgets.task_view import TaskView as TaskView
from jupyter_comfy_lock.kernel.widgets.view import View as View
from jupyter_comfy_lock.kernel.widgets.view import writer as writer
