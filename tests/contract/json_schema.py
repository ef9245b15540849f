"""What a JSON schema must be like, as far as the objects of a pool use the language (2020-12)."""

from typing import Any

TYPES = {"string", "integer", "number", "boolean", "null", "array", "object"}
WORDS = {
    "$defs", "$ref", "additionalProperties", "anyOf", "const", "contentEncoding", "default", "description",
    "discriminator", "enum", "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maxLength",
    "maximum", "minItems", "minLength", "minimum", "multipleOf", "pattern", "prefixItems", "properties", "required",
    "title", "type",
}  # fmt: skip


def check(schema: Any, root: Any = None) -> None:
    """Raises AssertionError, naming the place, where this is no schema."""
    root = schema if root is None else root
    assert isinstance(schema, dict), schema
    assert schema.keys() <= WORDS, schema.keys() - WORDS
    kinds = schema.get("type", [])
    assert set([kinds] if isinstance(kinds, str) else kinds) <= TYPES, kinds
    if "$ref" in schema:
        start, _, name = schema["$ref"].rpartition("/")
        assert start == "#/$defs", schema["$ref"]
        assert name in root.get("$defs", {}), f"{name} is referred to, and not there"
    assert set(schema.get("required", [])) <= set(schema.get("properties", {})), schema
    for inner in (*schema.get("properties", {}).values(), *schema.get("$defs", {}).values()):
        check(inner, root)
    for inner in (*schema.get("anyOf", []), *schema.get("prefixItems", [])):
        check(inner, root)
    for word in ("items", "additionalProperties"):
        if not isinstance(schema.get(word, False), bool):
            check(schema[word], root)
