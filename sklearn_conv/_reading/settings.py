"""How images are read: the parameters that `read_images` and `ImageReader` have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sklearn_conv._validation import (
    check_integer,
    check_name,
    is_integer,
    is_sequence,
    parameter_error,
)

MODES = {"RGB": 3, "L": 1, "RGBA": 4}
"""Number of channels of each mode, of 8 bits each."""

RESIZES = ("crop", "pad", "stretch")

MAX_SIDE = 2**16
"""Exclusive upper bound of the height and the width to which images are scaled."""


class Settings(NamedTuple):
    """How images are read, as checked by `check_settings`."""

    size: tuple[int, int] | None
    """(height, width), or None for images that keep their sizes."""
    is_any: bool
    """Whether images that keep their sizes may be unequal."""
    mode: str | None
    resize: str
    page: int
    load_func: Callable[[str], Any] | None

    @property
    def channels_remedy(self) -> str:
        """Return how channels and dtypes of all images come to agree."""
        if self.load_func is not None:
            return "Return arrays of one kind from load_func, or read the images separately."
        return "Set mode='RGB' to convert images of 8 bits, or read the images separately."


def check_settings(
    owner: str, size: Any, mode: Any, resize: Any, page: Any, load_func: Any
) -> Settings:
    """Check the parameters of the function or class named ``owner``."""
    is_any = isinstance(size, str) and size == "any"
    if mode is not None:
        check_name(owner, "mode", mode, MODES, " or None")
    settings = Settings(
        size=None if size is None or is_any else _check_size(owner, size),
        is_any=is_any,
        mode=mode,
        resize=check_name(owner, "resize", resize, RESIZES),
        page=check_integer(owner, "page", page, 0),
        load_func=load_func,
    )
    if load_func is not None and not callable(load_func):
        rule = "a function that returns the array of a path, or None"
        raise parameter_error(TypeError, owner, "load_func", rule, load_func)
    if load_func is not None and (mode is not None or page):
        raise ValueError(
            f"With load_func, {owner} requires mode=None and page=0: load_func chooses the page, "
            "and its arrays are used as they are, because nobody else knows whether their channels "
            f"are colors. Got mode={mode!r} and page={page}; convert the images in load_func."
        )
    return settings


def _check_size(owner: str, size: Any) -> tuple[int, int]:
    rule = 'a pair (height, width) of integers of at least 1, None or "any"'
    is_pair = is_sequence(size) and all(map(is_integer, size))
    if not is_pair and not isinstance(size, str):
        raise parameter_error(TypeError, owner, "size", rule, size)
    if is_pair and max(size, default=0) >= MAX_SIDE:
        rule += f", below {MAX_SIDE}"
    elif is_pair and len(size) == 2 and min(size) >= 1:
        return int(size[0]), int(size[1])
    raise parameter_error(ValueError, owner, "size", rule, size)
