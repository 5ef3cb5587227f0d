//! One operation of the API, as a row: its path, its parameters and its responses.

use serde_json::{Map, Value as Json, json};

/// An operation.
#[derive(Clone, Debug)]
pub struct Operation {
    /// get, post, put, patch or delete
    pub method: &'static str,
    /// with names in braces
    pub path: String,
    summary: &'static str,
    /// query parameters: name, type, meaning
    query: Vec<(&'static str, &'static str, &'static str)>,
    /// an example of the body, as JSON
    body: Option<&'static str>,
    /// responses: status, content type, example
    answers: Vec<(u16, Content, &'static str)>,
}

/// The content type of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// nothing
    Nothing,
    /// application/json
    Json,
    /// text/plain
    Text,
    /// text/event-stream
    Events,
    /// text/html
    Html,
    /// application/octet-stream
    Bytes,
    /// application/yaml
    Yaml,
}

impl Content {
    fn media(self) -> Option<&'static str> {
        Some(match self {
            Content::Nothing => return None,
            Content::Json => "application/json",
            Content::Text => "text/plain",
            Content::Events => "text/event-stream",
            Content::Html => "text/html",
            Content::Bytes => "application/octet-stream",
            Content::Yaml => "application/yaml",
        })
    }
}

fn operation(method: &'static str, path: impl Into<String>, summary: &'static str) -> Operation {
    Operation { method, path: path.into(), summary, query: Vec::new(), body: None, answers: Vec::new() }
}

pub fn get(path: impl Into<String>, summary: &'static str) -> Operation {
    operation("get", path, summary)
}

pub fn post(path: impl Into<String>, summary: &'static str) -> Operation {
    operation("post", path, summary)
}

pub fn put(path: impl Into<String>, summary: &'static str) -> Operation {
    operation("put", path, summary)
}

pub fn patch(path: impl Into<String>, summary: &'static str) -> Operation {
    operation("patch", path, summary)
}

pub fn delete(path: impl Into<String>, summary: &'static str) -> Operation {
    operation("delete", path, summary)
}

impl Operation {
    /// Adds a query parameter.
    pub fn query(mut self, name: &'static str, kind: &'static str, meaning: &'static str) -> Operation {
        self.query.push((name, kind, meaning));
        self
    }

    /// Adds a body with this example.
    pub fn body(mut self, example: &'static str) -> Operation {
        self.body = Some(example);
        self
    }

    /// Adds a JSON response with this example.
    pub fn json(self, example: &'static str) -> Operation {
        self.answer(200, Content::Json, example)
    }

    /// Adds a text response with this example.
    pub fn text(self, example: &'static str) -> Operation {
        self.answer(200, Content::Text, example)
    }

    /// Adds a response with this status and no content.
    pub fn empty(self, status: u16) -> Operation {
        self.answer(status, Content::Nothing, "")
    }

    /// Adds a successful response.
    pub fn answer(mut self, status: u16, content: Content, example: &'static str) -> Operation {
        self.answers.push((status, content, example));
        self
    }

    /// The names in the path.
    fn names(&self) -> impl Iterator<Item = &str> {
        self.path.split('/').filter_map(|step| step.strip_prefix('{')?.strip_suffix('}'))
    }

    /// A name for programs: the method and the segments of the path.
    pub fn id(&self) -> String {
        let steps = self.path.split('/').filter(|step| !step.is_empty());
        let steps = steps.map(|step| step.trim_matches(['{', '}']).replace(['.', '-'], "_"));
        // `/console/` and `/console` are different paths.
        let index = (self.path.len() > 1 && self.path.ends_with('/')).then(|| "index".to_owned());
        std::iter::once(self.method.to_owned()).chain(steps).chain(index).collect::<Vec<_>>().join("_")
    }

    /// The operation object of OpenAPI.
    pub fn shown(&self, tag: &str) -> Json {
        let in_path = self
            .names()
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
        let in_query = self.query.iter().map(|(name, kind, meaning)| {
            json!({"name": name, "in": "query", "description": meaning, "schema": {"type": kind}})
        });
        let parameters: Vec<Json> = in_path.chain(in_query).collect();
        let mut responses = Map::new();
        for (status, content, example) in &self.answers {
            let mut answer = json!({"description": described(*status)});
            if let Some(media) = content.media() {
                let example = match content {
                    Content::Json => serde_json::from_str(example).unwrap_or_else(|_| Json::from(*example)),
                    _ => Json::from(*example),
                };
                let schema = if *content == Content::Json { json!({}) } else { json!({"type": "string"}) };
                answer["content"] = json!({media: {"schema": schema, "example": example}});
                if *content == Content::Text && self.accepts_warnings() {
                    // In a response with warnings, the text is a member.
                    answer["content"]["application/json"] =
                        json!({"schema": {"$ref": "#/components/schemas/Accepted"}});
                }
            }
            responses.insert(status.to_string(), answer);
        }
        for name in ["400", "401", "403", "404", "408", "413", "415", "500", "503"] {
            responses.entry(name).or_insert_with(|| json!({"$ref": format!("#/components/responses/{name}")}));
        }
        let mut shown = json!({
            "operationId": self.id(), "summary": self.summary, "tags": [tag], "responses": responses,
        });
        if !parameters.is_empty() {
            shown["parameters"] = Json::Array(parameters);
        }
        if let Some(example) = self.body {
            let example = serde_json::from_str(example).unwrap_or_else(|_| Json::from(example));
            shown["requestBody"] = json!({"content": {"application/json": {"schema": {}, "example": example}}});
        }
        shown
    }

    fn accepts_warnings(&self) -> bool {
        matches!(self.method, "post" | "put") && self.body.is_some()
    }
}

fn described(status: u16) -> &'static str {
    match status {
        200 => "It is done.",
        201 => "It was created.",
        204 => "It is done, and there is nothing to say.",
        302 => "A browser is sent to the console.",
        405 => "Browsers may not do this by GET.",
        422 => "The rule is wrong; the text says why.",
        _ => "It was refused.",
    }
}
