//! `/openapi.json`: the API's description in OpenAPI 3.1.
//!
//! It is generated from one table of operations (`paths`). A test compares the table with the running routes, in both
//! directions.

mod operation;
mod paths;

use std::sync::LazyLock;

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Map, Value as Json, json};

use crate::service::Service;

/// The route of the description.
pub fn routes() -> Router<Service> {
    Router::new().route("/openapi.json", get(description))
}

async fn description() -> Response {
    /// It is always the same, and takes milliseconds to make.
    static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());
    super::json(TEXT.clone())
}

/// The description as a JSON document.
pub fn document() -> Json {
    let (mut all, mut tags) = (Map::new(), Vec::new());
    for resource in paths::all() {
        tags.push(json!({"name": resource.tag, "description": resource.about}));
        for operation in &resource.operations {
            let path = all.entry(operation.path.clone()).or_insert_with(|| json!({}));
            path[operation.method] = operation.shown(resource.tag);
        }
    }
    let refusal = |description: &str| {
        json!({
            "description": description,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/Error"}},
                "text/plain": {"schema": {"type": "string"}},
            },
        })
    };
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Plutino",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "SQL rules over live websocket feeds. Texts, codes and bodies are those of eKuiper where it has the route.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "tags": tags,
        "paths": all,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "required": ["error", "message"],
                    "properties": {
                        "error": {"type": "integer", "description": "1000 undefined, 1001 general, 1002 not found, 2201 a sink or source, 3000 streams and tables, 5000 conf keys"},
                        "message": {"type": "string"},
                        "details": {"type": "array", "items": {"$ref": "#/components/schemas/Mistake"}},
                    },
                    "example": {"error": 1002, "message": "Describe rule error: Rule r1 is not found."},
                },
                "Mistake": {
                    "type": "object",
                    "required": ["message"],
                    "properties": {
                        "message": {"type": "string"},
                        "in": {"type": "string", "description": "sql, rule or statement"},
                        "line": {"type": "integer"},
                        "column": {"type": "integer"},
                        "hint": {"type": "string"},
                        "excerpt": {"type": "string"},
                        "severity": {"type": "string", "enum": ["warning"]},
                    },
                },
                "Accepted": {
                    "type": "object",
                    "required": ["message", "warnings"],
                    "properties": {
                        "message": {"type": "string"},
                        "warnings": {"type": "array", "items": {"$ref": "#/components/schemas/Mistake"}},
                    },
                },
            },
            "responses": {
                "400": refusal("What is asked for is wrong, or cannot be done."),
                "401": refusal("A token is needed (basic.authentication)."),
                "403": refusal("The host or the page is not one of this service."),
                "404": refusal("It is not there."),
                "408": refusal("The body did not arrive in time."),
                "413": refusal("The body is too large."),
                "415": refusal("A browser must send JSON."),
                "500": refusal("The store cannot be written."),
                "503": refusal("The service ends, or too many ask for large answers."),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_examples_are_json() {
        let all: Vec<_> = paths::all().into_iter().flat_map(|resource| resource.operations).collect();
        let ids: BTreeSet<String> = all.iter().map(|operation| operation.id()).collect();
        assert_eq!(ids.len(), all.len());
        let document = document();
        for (path, operations) in document["paths"].as_object().expect("an object") {
            for (method, operation) in operations.as_object().expect("an object") {
                for content in [&operation["requestBody"], &operation["responses"]["200"]] {
                    let example = &content["content"]["application/json"]["example"];
                    assert!(!example.is_string(), "{method} {path}: the example is not JSON: {example}");
                }
            }
        }
    }
}
