# SPDX-License-Identifier: Apache-2.0
"""The documents of metadata definitions as JSON Schema: what is checked and what `/v2/schemas/metadefs` publishes.

Source: the Image API reference, "Metadata definition schemas".
"""

from __future__ import annotations

from cumulet.kernel.http.body import Body
from cumulet.kernel.http.fields import Schema

_TYPES = ["array", "boolean", "integer", "number", "object", "string", None]
_NAME: Schema = {"type": "string", "maxLength": 80}
_TEXT: Schema = {"type": "string"}
_BOOL: Schema = {"type": "boolean"}
_COUNT: Schema = {"$ref": "#/definitions/positiveInteger"}
_COUNT_0: Schema = {"$ref": "#/definitions/positiveIntegerDefault0"}
_WORDS: Schema = {"$ref": "#/definitions/stringArray"}

PROPERTY_FIELDS: dict[str, Schema] = {
    "name": _NAME,
    "title": _TEXT,
    "description": _TEXT,
    "operators": {"type": "array", "items": _TEXT},
    "type": {"type": "string", "enum": _TYPES},
    "required": _WORDS,
    "minimum": {"type": "number"},
    "maximum": {"type": "number"},
    "maxLength": _COUNT,
    "minLength": _COUNT_0,
    "pattern": {"type": "string", "format": "regex"},
    "enum": {"type": "array"},
    "readonly": _BOOL,
    "default": {},
    "items": {
        "type": "object",
        "properties": {"type": {"type": "string", "enum": _TYPES}, "enum": {"type": "array"}},
    },
    "maxItems": _COUNT,
    "minItems": _COUNT_0,
    "uniqueItems": {"type": "boolean", "default": False},
    "additionalItems": _BOOL,
}
DEFINITIONS: dict[str, Schema] = {
    "positiveInteger": {"type": "integer", "minimum": 0},
    "positiveIntegerDefault0": {"allOf": [{"$ref": "#/definitions/positiveInteger"}, {"default": 0}]},
    "stringArray": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
    "property": {
        "type": "object",
        "additionalProperties": {"type": "object", "required": ["title", "type"], "properties": PROPERTY_FIELDS},
    },
}


def _stamps(noun: str) -> dict[str, Schema]:
    return {
        "created_at": {
            "type": "string", "readOnly": True, "description": f"When the {noun} was made", "format": "date-time",
        },
        "updated_at": {
            "type": "string", "readOnly": True, "description": f"When the {noun} was last changed",
            "format": "date-time",
        },
    }  # fmt: skip


_LINKS: dict[str, Schema] = {
    "schema": {"readOnly": True, "type": "string"},
    "self": {"readOnly": True, "type": "string"},
}


def _list(properties: dict[str, Schema]) -> Schema:
    return {"type": "array", "items": {"type": "object", "properties": properties}}


NAMESPACE: Schema = {
    "name": "namespace",
    "properties": {
        "namespace": {"type": "string", "description": "Unique name of the namespace", "maxLength": 80},
        "display_name": {"type": "string", "description": "Name for people", "maxLength": 80},
        "description": {"type": "string", "description": "What the namespace is about", "maxLength": 500},
        "visibility": {"type": "string", "description": "Who may see it", "enum": ["public", "private"]},
        "protected": {"type": "boolean", "description": "Whether deleting is refused"},
        "owner": {"type": "string", "description": "Project that owns it", "maxLength": 255},
        **_stamps("namespace"),
        **_LINKS,
        "resource_type_associations": _list({"name": _TEXT, "prefix": _TEXT, "properties_target": _TEXT}),
        "properties": {"$ref": "#/definitions/property"},
        "objects": _list({
            "name": _TEXT, "description": _TEXT, "required": _WORDS, "properties": {"$ref": "#/definitions/property"},
        }),
        "tags": _list({"name": _TEXT}),
    },
    "required": ["namespace"],
    "definitions": DEFINITIONS,
    "additionalProperties": False,
}  # fmt: skip
OBJECT: Schema = {
    "name": "object",
    "properties": {
        "name": _NAME,
        "description": _TEXT,
        "required": _WORDS,
        "properties": {"$ref": "#/definitions/property"},
        **_LINKS,
        **_stamps("object"),
    },
    "required": ["name"],
    "definitions": DEFINITIONS,
    "additionalProperties": False,
}
_PROPERTY_DEFINITIONS = {
    **{name: DEFINITIONS[name] for name in ("positiveInteger", "positiveIntegerDefault0")},
    "stringArray": {**DEFINITIONS["stringArray"], "minItems": 1},
}
PROPERTY: Schema = {
    "name": "property",
    "properties": PROPERTY_FIELDS,
    "required": ["type", "title", "name"],
    "definitions": _PROPERTY_DEFINITIONS,
    "additionalProperties": False,
}
TAG: Schema = {
    "name": "tag",
    "properties": {"name": _NAME, **_stamps("tag")},
    "required": ["name"],
    "additionalProperties": False,
}
ASSOCIATION: Schema = {
    "name": "resource_type_association",
    "properties": {
        "name": {"type": "string", "description": "Name of the resource type", "maxLength": 80},
        "prefix": {
            "type": "string",
            "description": "What is put before each property's name on such a resource, separator included",
            "maxLength": 80,
        },
        "properties_target": {
            "type": "string",
            "description": "Which of the resource's kinds of metadata is meant, where it has several",
            "maxLength": 80,
        },
        **_stamps("association"),
    },
    "required": ["name"],
    "additionalProperties": False,
}
TAG_LIST: Schema = {
    "name": "tags",
    "properties": {
        "tags": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": _NAME},
                "required": ["name"],
                "additionalProperties": False,
            },
        }
    },
    "additionalProperties": False,
}


def _collection(name: str, item: Schema) -> Schema:
    schema = {
        "name": name,
        "properties": {
            name: {"type": "array", "items": {key: value for key, value in item.items() if key != "definitions"}},
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"},
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }
    return schema | ({"definitions": item["definitions"]} if "definitions" in item else {})


PUBLISHED: dict[str, Schema] = {
    "namespace": NAMESPACE,
    "namespaces": _collection("namespaces", NAMESPACE),
    "resource_type": ASSOCIATION,
    "resource_types": _collection("resource_type_associations", ASSOCIATION),
    "property": PROPERTY,
    "properties": {
        "name": "properties",
        "properties": {
            "properties": {
                "type": "object",
                "additionalProperties": {
                    "name": "property", "properties": PROPERTY_FIELDS, "required": ["type", "title"],
                    "additionalProperties": False,
                },
            },
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"},
        },
        "definitions": _PROPERTY_DEFINITIONS,
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    },
    "object": OBJECT,
    "objects": _collection("objects", OBJECT),
    "tag": TAG,
    "tags": _collection("tags", TAG),
}  # fmt: skip


def body_of(schema: Schema) -> Body:
    """The request body that a published schema describes."""
    return Body(None, raw={"type": "object", **schema})
