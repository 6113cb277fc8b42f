//! The CustomResourceDefinition and the reference of fields, made from the types.

use std::fmt::Write as _;

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::super::about::Fact as _;
use super::Traffic;
use super::spec::Spec;

/// As an API server takes it, in YAML.
pub(crate) fn definition() -> String {
    let about = Traffic::ABOUT;
    let version = json!({
        "name": about.versions[0],
        "served": true,
        "storage": true,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {
                "name": "Accepted", "type": "string",
                "jsonPath": ".status.ancestors[*].conditions[?(@.type==\"Accepted\")].status",
            },
            {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
        "schema": {"openAPIV3Schema": {
            "type": "object",
            "description": "How connections and requests to Services are spread, limited and ended.",
            "required": ["spec"],
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "spec": spec(),
                "status": status(),
            },
        }},
    });
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{}", about.plural, about.group),
            "labels": {"gateway.networking.k8s.io/policy": "Direct"},
        },
        "spec": {
            "group": about.group,
            "scope": "Namespaced",
            "names": {
                "kind": about.name,
                "listKind": format!("{}List", about.name),
                "plural": about.plural,
                "singular": about.name.to_lowercase(),
                "shortNames": ["tp"],
            },
            "versions": [version],
        },
    });
    let yaml = serde_saphyr::to_string(&definition).expect("YAML");
    let again: Value = serde_saphyr::from_str(&yaml).expect("YAML");
    assert_eq!(again, definition);
    format!("# Made from the code by `cargo xtask gen`: do not edit.\n{yaml}")
}

/// A row for each field.
pub(crate) fn fields_page() -> String {
    let mut page =
        String::from("| field of `spec` | what it may be | what |\n| --- | --- | --- |\n");
    rows(&mut page, "", &spec());
    page
}

/// In the order of names, those that must be there first.
fn rows(page: &mut String, at: &str, schema: &Value) {
    let none = Map::new();
    let fields = schema["properties"].as_object().unwrap_or(&none);
    let is_required = |name: &&String| {
        let required = schema["required"].as_array();
        required.is_some_and(|all| all.iter().any(|one| one == *name))
    };
    let (first, then): (Vec<&String>, Vec<&String>) = fields.keys().partition(is_required);
    for (name, required) in first
        .into_iter()
        .map(|name| (name, ", required"))
        .chain(then.into_iter().map(|name| (name, "")))
    {
        let field = &fields[name];
        let (path, inner) = match field["type"] == "array" {
            true => (format!("{at}{name}[]"), &field["items"]),
            false => (format!("{at}{name}"), field),
        };
        let what = field["description"].as_str().unwrap_or_default();
        let _never = writeln!(page, "| `{path}` | {}{required} | {what} |", values(field));
        rows(page, &format!("{path}."), inner);
    }
}

fn values(field: &Value) -> String {
    let quoted = |value: &Value| format!("`{value}`");
    if let Some(all) = field["enum"].as_array() {
        return all.iter().map(quoted).collect::<Vec<_>>().join(", ");
    }
    if let Some(rule) = field["x-kubernetes-validations"][0]["message"].as_str()
        && let Some(range) = rule.strip_prefix("not from ")
    {
        return format!("time from {range}");
    }
    match (
        field["type"].as_str(),
        &field["minimum"],
        &field["maxItems"],
    ) {
        (Some("integer"), least, _) => format!("number from {least} to {}", field["maximum"]),
        (Some("array"), _, most) => format!("at most {most}"),
        (Some("boolean"), ..) => "`true`, `false`".to_owned(),
        (Some("string"), ..) if field["format"] == "date-time" => "time of day and date".to_owned(),
        (Some("string"), ..) => format!("text of at most {} signs", field["maxLength"]),
        _ => "object".to_owned(),
    }
}

fn spec() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let schema = settings.into_generator().into_root_schema_for::<Spec>();
    structural(schema.to_value())
}

/// What an API server takes as a schema: no null, no title, and fields that are not
/// known are no matter of it.
fn structural(schema: Value) -> Value {
    let Value::Object(mut schema) = schema else {
        return schema;
    };
    for name in ["title", "additionalProperties", "default", "$schema"] {
        schema.remove(name);
    }
    if let Some(Value::Array(kinds)) = schema.get("type") {
        let kind = kinds.iter().find(|kind| **kind != "null").cloned();
        schema.insert("type".to_owned(), kind.unwrap_or_default());
    }
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if let Some(Value::Array(any)) = schema.remove("anyOf") {
        let one = any.into_iter().find(|one| one["type"] != "null");
        for (name, value) in one
            .and_then(|one| one.as_object().cloned())
            .into_iter()
            .flatten()
        {
            schema.entry(name).or_insert(value);
        }
        return structural(Value::Object(schema));
    }
    if let Some(Value::String(what)) = schema.get_mut("description") {
        *what = what.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    if let Some(Value::Object(fields)) = schema.get_mut("properties") {
        for field in fields.values_mut() {
            *field = structural(field.take());
        }
    }
    if let Some(items) = schema.get_mut("items") {
        *items = structural(items.take());
    }
    Value::Object(schema)
}

/// As the Gateway API has it for policies.
fn status() -> Value {
    let text = |most: u32| json!({"type": "string", "maxLength": most});
    json!({
        "type": "object",
        "description": "How it fares with each of its targets.",
        "properties": {"ancestors": {
            "type": "array", "maxItems": 16, "x-kubernetes-list-type": "atomic",
            "items": {
                "type": "object",
                "required": ["ancestorRef", "controllerName"],
                "properties": {
                    "ancestorRef": {
                        "type": "object",
                        "required": ["name"],
                        "properties": {
                            "group": text(253), "kind": text(63), "namespace": text(63),
                            "name": text(253), "sectionName": text(253),
                            "port": {"type": "integer", "format": "int32"},
                        },
                    },
                    "controllerName": text(253),
                    "conditions": {
                        "type": "array", "maxItems": 8,
                        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
                        "items": {
                            "type": "object",
                            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                            "properties": {
                                "type": text(316),
                                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                                "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                                "lastTransitionTime": {"type": "string", "format": "date-time"},
                                "reason": text(1_024),
                                "message": text(32_768),
                            },
                        },
                    },
                },
            },
        }},
    })
}

/// What the API server asks of a schema for it to be one, as far as these types could
/// break it.
#[test]
fn the_schema_is_structural() {
    fn look(at: &str, schema: &Value) {
        assert!(schema["type"].is_string(), "{at}: {schema}");
        for name in [
            "$ref",
            "anyOf",
            "oneOf",
            "allOf",
            "additionalProperties",
            "const",
        ] {
            assert!(schema[name].is_null(), "{at} has {name}");
        }
        let none = Map::new();
        for (name, field) in schema["properties"].as_object().unwrap_or(&none) {
            look(&format!("{at}.{name}"), field);
        }
        if schema["type"] == "array" {
            assert!(
                schema["maxItems"].is_u64(),
                "{at} is bounded, for CEL's cost"
            );
            look(&format!("{at}[]"), &schema["items"]);
        }
        if schema["type"] == "string" && schema["enum"].is_null() {
            let is_bounded = schema["maxLength"].is_u64() || schema["format"] == "date-time";
            assert!(is_bounded, "{at} is bounded, for CEL's cost");
        }
    }
    look("spec", &spec());
    look("status", &status());
}
