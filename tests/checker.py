"""What the tests check the shapes and types of functions with."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its arguments checked, unless it is made anew at each call of another.

    Making the checks of those took a fifth of the tests' time.
    """
    return function if "<locals>" in function.__qualname__ else beartype(function)
