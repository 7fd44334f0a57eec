"""Map enums of the contract to enums of the domain, by name. Refuse unset or unknown values; assume no default."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

from google.protobuf.descriptor import EnumDescriptor

from services.preprocess.domain.limits import Violations

E = TypeVar("E", bound=Enum)


class EnumTable(Generic[E]):
    """One enum, both ways. Proto names are PREFIX_NAME, where NAME is the domain member's."""

    def __init__(self, descriptor: EnumDescriptor, prefix: str, members: type[E]) -> None:
        values = descriptor.values
        names = {value.number: value.name.removeprefix(f"{prefix}_") for value in values if value.number}
        self.prefix = prefix
        self.to_domain: Mapping[int, E] = {number: members[name] for number, name in names.items()}
        self.to_wire: Mapping[E, int] = {member: number for number, member in self.to_domain.items()}
        if missing := set(members) - set(self.to_wire):
            raise LookupError(f"{prefix} has no value for {missing}")
        self._choices = ", ".join(f"{prefix}_{name}" for name in names.values())

    def required(self, number: int, field: str, violations: Violations) -> E | None:
        """Return the member, or None with a violation."""
        member = self.to_domain.get(number)
        if member is None:
            said = "is not set" if number == 0 else f"is {number}, which this server does not know"
            violations.add(field, f"{said}; choose one of {self._choices}.")
        return member

    def optional(self, present: bool, number: int, default: E, field: str, violations: Violations) -> E:
        """Return the member; the default only where the field is absent. An explicit UNSPECIFIED is refused."""
        if not present:
            return default
        return self.required(number, field, violations) or default
