"""Not torchvision: enough of it to be imported."""

from import_only import stand_in

__version__ = "0.0.0"
__getattr__ = stand_in(__name__)
