"""Serve a Python function as a model container of a Clipper cluster.

`serve` is the whole of it for most authors. The modules, from the outside in:

* `container`: the sockets and the one thread; `session`, `membership` and `stop_signal` decide what it does.
* `adapter`: the call of the model; `outputs`: what it may return.
* `codec`: the wire form of `messages`; `multipart`: its way through a socket; `endpoint`: where that leads.
* `config`: the settings; `kinds`: ready models.
* `closure`: functions on disk; `preflight`: the check of a function before it is deployed.

Invariant: this module only names what is public.
"""

from .adapter import Model, Predictor
from .config import Address, Config
from .container import serve
from .errors import (
    CheckError,
    ClosureError,
    CodecError,
    ConfigError,
    ContainerError,
    IncompatibleClosureError,
    OutputError,
    RejectedError,
    UnpicklableFunctionError,
)
from .input_type import InputType
from .preflight import check
from .version import __version__

__all__ = [
    "Address",
    "CheckError",
    "ClosureError",
    "CodecError",
    "Config",
    "ConfigError",
    "ContainerError",
    "IncompatibleClosureError",
    "InputType",
    "Model",
    "OutputError",
    "Predictor",
    "RejectedError",
    "UnpicklableFunctionError",
    "__version__",
    "check",
    "serve",
]
