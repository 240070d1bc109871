"""Base types of every part of a profile: names, shares, and sections that refuse misspelt keys."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

NAME = r"^[a-z][a-z0-9_]{0,47}$"
Name = Annotated[str, Field(pattern=NAME)]
HardwareClass = Annotated[str, Field(min_length=1, max_length=64)]
"""What an operator calls devices of one kind: as invitations name it."""
Probability = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of every part of a profile: frozen, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
