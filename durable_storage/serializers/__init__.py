"""How values become bytes and come back.

A serializer is three things: a ``name``, which is recorded in every object so that its data is
never read with another one, ``dumps`` and ``loads``. What cannot be stored is refused by
``dumps`` with the path to the part that is to blame, before anything changes.
"""

from __future__ import annotations

from .json_text import JsonSerializer
from .messagepack import MsgpackSerializer
from .pickles import PickleSerializer
from .protocol import Serializer

__all__ = ["JsonSerializer", "MsgpackSerializer", "PickleSerializer", "Serializer"]
