//! One OpenAPI document made of several. Fetching them is `routes/docs`' work.

use serde_json::{Map, Value, json};

/// Merges documents, each with the name of its service. A schema that two define alike stands once; one that they define
/// differently gets the later service's name before its own. The first to define an operation keeps it.
pub fn merge(documents: Vec<(String, Value)>) -> Value {
    let mut paths = Map::new();
    let mut components: Map<String, Value> = Map::new();
    let mut tags: Vec<Value> = Vec::new();
    for (service, mut document) in documents {
        let renames = renames(&service, &document, &components);
        rename_references(&mut document, &renames);
        let Value::Object(mut document) = document else { continue };
        if let Some(Value::Object(kinds)) = document.remove("components") {
            for (kind, items) in kinds {
                let Value::Object(items) = items else { continue };
                let Some(into) = components.entry(kind.clone()).or_insert_with(|| json!({})).as_object_mut() else {
                    continue;
                };
                for (name, item) in items {
                    let name = renames
                        .iter()
                        .find(|(of, old, _)| *of == kind && *old == name)
                        .map_or(name, |(_, _, new)| new.clone());
                    into.entry(name).or_insert(item);
                }
            }
        }
        if let Some(Value::Object(own)) = document.remove("paths") {
            for (path, item) in own {
                let into = paths.entry(path).or_insert_with(|| json!({}));
                if let (Value::Object(into), Value::Object(item)) = (into, item) {
                    for (method, operation) in item {
                        into.entry(method).or_insert(operation);
                    }
                }
            }
        }
        if let Some(Value::Array(own)) = document.remove("tags") {
            tags.extend(own.into_iter().filter(|tag| !tags.contains(tag)).collect::<Vec<_>>());
        }
    }
    let mut merged = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Kronos",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Everything that the platform offers, as the gateway serves it.",
        },
        "paths": paths,
        "components": components,
    });
    if !tags.is_empty() {
        merged["tags"] = Value::Array(tags);
    }
    merged
}

/// Kind, old name, new name of each component that would mean something else than the one that is there.
fn renames(service: &str, document: &Value, known: &Map<String, Value>) -> Vec<(String, String, String)> {
    let mut renames = Vec::new();
    for (kind, items) in document["components"].as_object().into_iter().flatten() {
        for (name, item) in items.as_object().into_iter().flatten() {
            let Some(there) = known.get(kind).and_then(|items| items.get(name)) else { continue };
            if there != item {
                renames.push((kind.clone(), name.clone(), format!("{}{name}", camel(service))));
            }
        }
    }
    renames
}

fn rename_references(value: &mut Value, renames: &[(String, String, String)]) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                match value {
                    Value::String(text) if key == "$ref" => {
                        let new = renames.iter().find_map(|(kind, old, new)| {
                            let is = text.strip_prefix("#/components/")? == format!("{kind}/{old}");
                            is.then(|| format!("#/components/{kind}/{new}"))
                        });
                        *text = new.unwrap_or(std::mem::take(text));
                    }
                    value => rename_references(value, renames),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| rename_references(value, renames)),
        _ => {}
    }
}

/// `log-service` → `LogService`.
fn camel(service: &str) -> String {
    service
        .split('-')
        .filter_map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_uppercase().chain(letters).collect::<String>())
        })
        .collect()
}
