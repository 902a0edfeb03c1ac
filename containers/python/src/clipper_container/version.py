"""Owns the version of this SDK.

Invariant: the packaging metadata and the `sdk` field of `register` both read it here.
"""

__version__ = "0.1.0"
