"""The run directory: everything that a run leaves on disk, and how it is written and read.

Torch-free, and free of the configuration: it must not know what is trained.
"""

from lumina.store.errors import Refusal
from lumina.store.layout import RunPaths

__all__ = ["Refusal", "RunPaths"]
