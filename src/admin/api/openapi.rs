//! Owns the OpenAPI 3.1 document: the table of routes in that form, with the schemas of the wire types.
//!
//! Promises to be a function of the table and of the types that are really read and written. Deliberately absent: any
//! description that stands twice.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{Content, Role, Route, Way, of, routes};
use crate::admin::wire::Problem;

/// Where the schemas stand in the document.
const SCHEMAS: &str = "/components/schemas";

/// An event's id.
const ID: &str = "^[0-7][0-9A-Za-z]{25}$";

/// The document.
pub(in crate::admin) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = SCHEMAS.into();
        settings.meta_schema = None;
    });
    let mut read = settings.clone().for_deserialize().into_generator();
    let mut written = settings.for_serialize().into_generator();
    let problem = of::<Problem>(&mut written);
    let mut paths: Map<String, Value> = Map::new();
    for route in routes() {
        let method = match route.way {
            Way::Get => "get",
            Way::Post => "post",
        };
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(method.to_owned(), operation(route, &mut read, &mut written));
        }
    }
    let mut schemas = read.take_definitions(true);
    schemas.extend(written.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Stagepost",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What operators see and do. On the admin socket without a token, else with one that is sent \
                            as `Authorization: Bearer TOKEN`.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": schemas,
            "responses": {
                "Problem": {
                    "description": "Why it was not done (RFC 9457).",
                    "content": {"application/problem+json": {"schema": problem}},
                },
            },
        },
    })
}

fn operation(route: &Route, read: &mut SchemaGenerator, written: &mut SchemaGenerator) -> Value {
    let mut operation = json!({
        "operationId": route.id,
        "summary": route.about,
        "x-role": route.role.as_str(),
        "responses": {
            "200": {"description": "Done.", "content": content(route, written)},
            "default": {"$ref": "#/components/responses/Problem"},
        },
    });
    let Some(fields) = operation.as_object_mut() else { return operation };
    let parameters = parameters(route);
    if !parameters.is_empty() {
        fields.insert("parameters".to_owned(), Value::Array(parameters));
    }
    if let Some(body) = route.body {
        let content = json!({"application/json": {"schema": body(read)}});
        fields.insert("requestBody".to_owned(), json!({"required": true, "content": content}));
    }
    if route.role == Role::Nobody {
        fields.insert("security".to_owned(), json!([]));
    }
    operation
}

fn content(route: &Route, written: &mut SchemaGenerator) -> Value {
    match route.content {
        Content::Json(describe) => json!({"application/json": {"schema": describe(written)}}),
        // One object a line: the schema is that of each line.
        Content::Lines(describe) => json!({"application/x-ndjson": {"itemSchema": describe(written)}}),
        Content::Bytes => json!({"application/octet-stream": {}}),
        Content::Text => json!({"text/plain": {"schema": {"type": "string"}}}),
        Content::Document => json!({"application/json": {"schema": {"type": "object"}}}),
    }
}

fn parameters(route: &Route) -> Vec<Value> {
    let variables = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let variables = variables.map(|name| {
        let schema = match name {
            "id" => json!({"type": "string", "pattern": ID}),
            _ => json!({"type": "string", "minLength": 1}),
        };
        json!({"name": name, "in": "path", "required": true, "schema": schema})
    });
    let query = route.params().map(|param| {
        json!({
            "name": param.name,
            "in": "query",
            "required": param.required,
            "description": param.about,
            "schema": param.kind.schema(),
        })
    });
    variables.chain(query).collect()
}
