"""Start a Clipper prediction-serving cluster and deploy models to it.

`Clipper` is the short way, in the words of the early original; `ClipperConnection` the long one, in those of
the later. `clipper_admin.deployers` deploys functions.
"""

from importlib.metadata import PackageNotFoundError, version

from .clipper import Clipper
from .clipper_connection import ClipperConnection
from .exceptions import (
    ClipperException,
    FunctionException,
    RefusedException,
    StartException,
    UnconnectedException,
    UnreachableException,
)
from .local_container_manager import LocalContainerManager

try:
    __version__ = version("clipper_admin")
except PackageNotFoundError:  # run from a checkout
    __version__ = "0.0.0"

__all__ = [
    "Clipper",
    "ClipperConnection",
    "ClipperException",
    "FunctionException",
    "LocalContainerManager",
    "RefusedException",
    "StartException",
    "UnconnectedException",
    "UnreachableException",
    "__version__",
]
