"""What every object of a runtime, or one opened alone, is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, final

from ..clock import Clock, SystemClock
from ..database.faults import Faults
from ..errors import ArgumentValueError
from ..history import History
from ..limits import Limits
from ..serializers import MsgpackSerializer, Serializer

__all__ = ["Durability", "Settings"]

Durability = Literal["disk", "os"]


@final
@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of objects. See ``Runtime`` for their meaning.

    Raises:
        ArgumentValueError: ``durability`` is neither ``"disk"`` nor ``"os"``.
    """

    durability: Durability = "disk"
    limits: Limits = field(default_factory=Limits)
    serializer: Serializer = field(default_factory=MsgpackSerializer)
    clock: Clock = field(default_factory=SystemClock)
    history: History = field(default_factory=History)
    faults: Faults | None = None

    def __post_init__(self) -> None:
        if self.durability not in ("disk", "os"):
            raise ArgumentValueError(f'durability is "disk" or "os", got {self.durability!r}')
