"""Check how images are to be read, and find how an image comes to a size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sklearn_conv._reading.opened import MODES, Settings
from sklearn_conv._validation import (
    check_integer,
    check_name,
    is_integer,
    is_sequence,
    parameter_error,
)

FITS = ("crop", "pad", "stretch")

MAX_SIDE = 2**16
"""Exclusive upper bound of the height and the width to which images are scaled."""


class Placement(NamedTuple):
    """How an image is scaled to a size. Pairs are (rows, columns)."""

    box: tuple[float, float, float, float]
    """Left, upper, right and lower edge of the part of the image that is used, in pixels."""
    inner: tuple[int, int]
    """Size to which this part is scaled."""
    corner: tuple[int, int]
    """Position of its first pixel in the result."""


def check_settings(
    owner: str, size: Any, mode: Any, fit: Any, page: Any, name_of_fit: str = "fit"
) -> Settings:
    """Check the parameters of the function or class named ``owner``."""
    is_any = isinstance(size, str) and size == "any"
    if mode is not None:
        check_name(owner, "mode", mode, MODES, " or None")
    return Settings(
        size=None if size is None or is_any else _check_size(owner, size),
        is_any=is_any,
        mode=mode,
        fit=check_name(owner, name_of_fit, fit, FITS),
        page=check_integer(owner, "page", page, 0),
    )


def _check_size(owner: str, size: Any) -> tuple[int, int]:
    rule = 'a pair (height, width) of integers of at least 1, None or "any"'
    if isinstance(size, str):
        raise parameter_error(ValueError, owner, "size", rule, size)
    if not is_sequence(size) or not all(map(is_integer, size)):
        raise parameter_error(TypeError, owner, "size", rule, size)
    if len(size) != 2 or min(size) < 1:
        raise parameter_error(ValueError, owner, "size", rule, size)
    if max(size) >= MAX_SIDE:
        raise parameter_error(ValueError, owner, "size", f"{rule}, below {MAX_SIDE}", size)
    return int(size[0]), int(size[1])


def place_image(shape: tuple[int, int], size: tuple[int, int], fit: str) -> Placement:
    """Return how an image of ``shape`` comes to ``size``, both (rows, columns)."""
    (h, w), (rows, columns) = shape, size
    if fit == "stretch":
        return Placement((0, 0, w, h), size, (0, 0))
    is_narrow = rows * w <= columns * h  # than the size
    if fit == "crop":
        # The used part has the proportions of the size, and lies in the middle.
        height, width = (w * rows / columns, w) if is_narrow else (h, h * columns / rows)
        top, left = (h - height) / 2, (w - width) / 2
        return Placement((left, top, left + width, top + height), size, (0, 0))
    inner = (
        (rows, max(1, round(w * rows / h)))
        if is_narrow
        else (max(1, round(h * columns / w)), columns)
    )
    corner = (rows - inner[0]) // 2, (columns - inner[1]) // 2
    return Placement((0, 0, w, h), inner, corner)


def list_some(names: Iterable[str], shown: int = 5) -> str:
    """Return at most ``shown`` names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
