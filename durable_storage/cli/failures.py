"""What a command refuses to do, told to the person at the terminal without a traceback."""

from __future__ import annotations

from typing import final

__all__ = ["DONE", "FAILED", "WRONG_USE", "Failure", "WrongUse"]

DONE = 0
FAILED = 1
"""It could not be done, or a check found something."""
WRONG_USE = 2
"""The command line makes no sense."""


class Failure(Exception):  # noqa: N818 - what the person reads is a message, not a class
    """The command cannot be carried out; nothing was changed unless the message says so."""

    code = FAILED


@final
class WrongUse(Failure):
    """The arguments make no sense."""

    code = WRONG_USE
