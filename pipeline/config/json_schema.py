"""JSON Schema of a kind of settings, for editors: descriptions, defaults and allowed values.

It accepts what `pipeline.config.loading` accepts: also short forms, and `${…}` in place of a number
or a choice. It does not know the rules between settings, which the loader also checks.
"""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

_INTERPOLATION: Final = {
    "description": "Value of another setting, `${other.key}`, or of an environment variable,"
    " `${oc.env:NAME}`.",
    "pattern": r"\$\{.+\}",
    "type": "string",
}

_ANNOTATIONS: Final = ("default", "description")

_OF_VALUES: Final = frozenset({"integer", "number", "boolean", "null"})


class _Generator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        """Return False: a title would repeat the name of the field."""
        return False


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a kind of settings, as a configuration has them.

    Args:
        model: class of the settings, such as `pipeline.config.job.JobConfig`.
    """
    schema = model.model_json_schema(schema_generator=_Generator)
    sections = schema.setdefault("$defs", {})
    for section in [schema, *sections.values()]:
        properties = section["properties"]
        section["properties"] = {name: _property(value) for name, value in properties.items()}
    for each in [schema, *sections.values()]:
        each["description"] = _unwrapped(each["description"])
    sections["Interpolation"] = _INTERPOLATION
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


def _property(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field, which can also be an interpolation."""
    notes: dict[str, Any] = {name: schema[name] for name in _ANNOTATIONS if name in schema}
    if "description" in notes:
        notes["description"] = _unwrapped(notes["description"])
    if isinstance(notes.get("default"), dict):  # the section shows its own defaults
        del notes["default"]
    rule = {name: value for name, value in schema.items() if name not in _ANNOTATIONS}
    rules = rule["anyOf"] if rule.keys() == {"anyOf"} else [rule]
    if all(_is_choice(each) for each in rules):
        rule = {"anyOf": [*rules, {"$ref": "#/$defs/Interpolation"}]}
    return {**notes, **rule}


def _is_choice(rule: dict[str, Any]) -> bool:
    """Return whether a rule is of one value, and refuses some texts."""
    return rule.get("type") in _OF_VALUES or bool(rule.keys() & {"enum", "pattern"})


def _unwrapped(text: str) -> str:
    return " ".join(text.split())
