"""What can go wrong, as exceptions: each is a `StridekitError` and the built-in that a caller would catch."""

from __future__ import annotations


class StridekitError(Exception):
    """Base of every error that stridekit raises on purpose."""


class ShapeError(StridekitError, ValueError):
    """A size, stride, padding or shape that does not fit the operation."""


class DtypeError(StridekitError, TypeError):
    """An element type, or a kind of object, that the operation does not take."""


class LayoutError(StridekitError, ValueError):
    """Axes or memory in another order than was promised, or memory that overlaps where it must not."""


class BackendUnavailableError(StridekitError, RuntimeError):
    """A backend that was asked for by name and cannot run here."""


class VramBudgetError(StridekitError, MemoryError):
    """No algorithm fits the memory budget; nothing was allocated."""


class ImageError(StridekitError, ValueError):
    """A picture that is missing, unreadable or of no usable kind."""


class MissingExtraError(StridekitError, ModuleNotFoundError):
    """A library that need not be installed, and is wanted; the message says how to get it."""


class NetworkError(StridekitError, ValueError):
    """A network that cannot be read, or whose layers do not fit together; the message names the layer."""

    def __init__(self, message: str, *, layer: str | None = None, key: str | None = None):
        super().__init__(message)
        self.layer = layer
        self.key = key
