"""What every object of a runtime, or one opened alone, is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, final

from ..clock import Clock, SystemClock
from ..database.faults import Faults
from ..errors import ArgumentTypeError, ArgumentValueError
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
        ArgumentTypeError: a setting is not what it should be.
        ArgumentValueError: ``durability`` is neither ``"disk"`` nor ``"os"``.
    """

    durability: Durability = "disk"
    limits: Limits = field(default_factory=Limits)
    serializer: Serializer = field(default_factory=MsgpackSerializer)
    clock: Clock = field(default_factory=SystemClock)
    history: History = field(default_factory=History)
    faults: Faults | None = None

    def __post_init__(self) -> None:
        for name, value, kind in (
            ("limits", self.limits, Limits),
            ("history", self.history, History),
            ("serializer", self.serializer, Serializer),
            ("clock", self.clock, Clock),
        ):
            # A class has the methods of its instances.
            if isinstance(value, type) or not isinstance(value, kind):
                raise ArgumentTypeError(f"{name}= takes a {kind.__name__}, got {value!r}")
        if self.faults is not None and not callable(getattr(self.faults, "before", None)):
            raise ArgumentTypeError(f"faults= takes a FaultInjector, got {self.faults!r}")
        recorded: object = self.serializer.name
        if not isinstance(recorded, str):
            raise ArgumentTypeError(f"a serializer's name is a str, got {type(recorded).__name__}")
        if not recorded:
            raise ArgumentValueError("a serializer's name cannot be empty")
        if self.durability not in ("disk", "os"):
            raise ArgumentValueError(f'durability is "disk" or "os", got {self.durability!r}')
