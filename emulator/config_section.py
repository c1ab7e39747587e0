"""What every section of the configuration is: values that stay, no unknown keys, and no truth value for a number."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A table of the configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """To Python true is 1; to whoever wrote it, it is not: ``loss = true`` would lose everything."""
        given = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(each, bool) for each in given):
            wanted = set(plain_types(cls.model_fields[info.field_name or ""].annotation))
            if wanted & {int, float} and bool not in wanted:
                what = "text or a number" if str in wanted else "a number"
                raise PydanticCustomError("truth_for_a_number", f"Input should be {what}")
        return value


def plain_types(annotation: Any) -> Iterator[Any]:
    """The plain types an annotation is made of."""
    inner = get_args(annotation)
    if isinstance(annotation, type) and not inner:
        yield annotation
    for each in inner:
        yield from plain_types(each)
