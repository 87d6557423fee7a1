"""Base of all configuration sections, and the field types that they share."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PositiveFloat


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Strings = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
"""A list of strings. A single string is a list of one."""


Seconds = PositiveFloat
"""A positive number. An integer is accepted."""


class Section(BaseModel):
    """Base of the configuration sections.

    A section is frozen and strict: unknown keys and values of another type are errors.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )

    def public(self) -> dict[str, Any]:
        """Return all settings as JSON-like values, with `…` in place of each storage option."""
        values: dict[str, Any] = _without_credentials(self.model_dump(mode="json", by_alias=True))
        return values


def _without_credentials(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_credentials(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: dict.fromkeys(item, "…") if key == "storage_options" else _without_credentials(item)
        for key, item in value.items()
    }
