"""The nodes that every embedded server has."""

from jupyter_comfy_lock.embedded.nodes import filters, image, sampler, storage
from jupyter_comfy_lock.embedded.nodes.spec import NodeSpec

BUILT_IN: tuple[NodeSpec, ...] = (*image.NODES, *filters.NODES, *storage.NODES, *sampler.NODES)
