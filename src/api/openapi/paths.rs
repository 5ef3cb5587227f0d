//! All operations of the API, by resource.

use super::operation::{Content, Operation, delete, get, patch, post, put};

/// A resource and its operations.
pub struct Resource {
    pub tag: &'static str,
    /// its description
    pub about: &'static str,
    pub operations: Vec<Operation>,
}

const RULE: &str = r#"{"id": "r1", "sql": "SELECT a FROM demo", "actions": [{"websocket": {"path": "/out"}}]}"#;
const STREAM: &str = r#"{"sql": "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")"}"#;
const TABLE: &str =
    r#"{"sql": "CREATE TABLE last () WITH (TYPE=\"websocket\", DATASOURCE=\"/last\", RETAIN_SIZE=\"3\")"}"#;
const VIEW: &str = r#"{"sql": "CREATE VIEW fleet WITH (KEY=\"id\") AS SELECT id, t FROM demo"}"#;
const TAGS: &str = r#"{"tags": ["a", "b"]}"#;
const RULESET: &str = r#"{"content": "{\"streams\": {}, \"tables\": {}, \"rules\": {}}"}"#;
const CONNECTION: &str =
    r#"{"id": "exchange", "typ": "websocket", "props": {"addr": "127.0.0.1:8080", "path": "/feed"}}"#;

/// All resources.
pub fn all() -> Vec<Resource> {
    vec![
        Resource { tag: "process", about: "The process itself", operations: process() },
        Resource { tag: "streams", about: "Streams", operations: streams() },
        Resource { tag: "tables", about: "Tables", operations: relations("table", TABLE) },
        Resource { tag: "views", about: "Live views", operations: views() },
        Resource { tag: "rules", about: "Rules", operations: rules() },
        Resource { tag: "trials", about: "Rules that run for a while and are not kept", operations: trials() },
        Resource { tag: "transfer", about: "Configurations as a whole", operations: transfer() },
        Resource { tag: "metadata", about: "What can be configured", operations: metadata() },
        Resource { tag: "connections", about: "Named connections", operations: connections() },
        Resource { tag: "uploads", about: "Files", operations: uploads() },
        Resource { tag: "traces", about: "Traces of messages, of which none is recorded", operations: traces() },
        Resource { tag: "absent", about: "What eKuiper has and Plutino has not", operations: absent() },
    ]
}

fn process() -> Vec<Operation> {
    vec![
        get("/", "Says what the process is; browsers are sent to the console")
            .json(r#"{"version": "0.1.0", "os": "linux", "arch": "x86_64", "upTimeSeconds": 5, "cpuUsage": "1.00%", "memoryUsed": "12000000", "memoryTotal": "16000000000"}"#)
            .empty(302),
        post("/", "Says what the process is").json(r#"{"version": "0.1.0"}"#),
        get("/ping", "Says that it is there").empty(200),
        get("/stop", "Ends the process in order").text("stop success").empty(405),
        post("/stop", "Ends the process in order").text("stop success"),
        get("/overview", "All rules with their totals, clients and losses")
            .json(r#"{"states": {"running": 1}, "in": 10, "out": 5, "clients": 2, "lost": {}, "rules": []}"#),
        get("/log", "The last lines of the log")
            .query("after", "integer", "lines behind the one of this number")
            .query("filter", "string", "lines that hold this text")
            .json(r#"{"lines": [{"number": 1, "text": "INFO …"}], "last": 1}"#),
        get("/metrics", "What is counted, in Prometheus' text format").text("# HELP …"),
        get("/openapi.json", "This description").json(r#"{"openapi": "3.1.0"}"#),
        get("/console", "Leads to the console").empty(302),
        get("/console/", "The console").answer(200, Content::Html, "<!doctype html>"),
        get("/console/{file}", "A file of the console").answer(200, Content::Text, ""),
        get("/rules/usage/cpu", "The time that rules take, which is not measured").text("cpu usage not enabled"),
        get("/metrics/dump/check", "Whether metrics are written to files, which they are not").text("disabled"),
        get("/metrics/dump", "Refused: metrics are not written to files"),
        patch("/configs", "Changes the log and the time zone until the process ends")
            .body(r#"{"logLevel": "debug", "timezone": "UTC"}"#)
            .empty(204),
        post("/batch/req", "Runs several requests in order")
            .body(r#"[{"method": "GET", "path": "/rules"}]"#)
            .json(r#"[{"code": 200, "response": "[]"}]"#),
        post("/validate", "Says what is wrong with a statement; nothing is made")
            .body(r#"{"sql": "SELECT a FROM demo"}"#)
            .json(r#"{"valid": true, "kind": "rule", "details": [], "plan": "…"}"#),
    ]
}

fn relations(what: &str, statement: &'static str) -> Vec<Operation> {
    let base = format!("/{what}s");
    let kind = |list: Operation| if what == "table" { list.query("kind", "string", "lookup or scan") } else { list };
    vec![
        kind(get(&*base, "The names of all").json(r#"["demo"]"#)),
        post(&*base, "Creates one").body(statement).answer(201, Content::Text, "Stream demo is created."),
        get(format!("/{what}details"), "All with their types")
            .json(r#"[{"name": "demo", "type": "websocket", "format": "json"}]"#),
        get(format!("{base}/{{name}}"), "The definition of one").json(r#"{"Name": "demo"}"#),
        put(format!("{base}/{{name}}"), "Replaces one").body(statement).text("Stream demo is replaced."),
        delete(format!("{base}/{{name}}"), "Drops one")
            .query("force", "boolean", "also where rules use it")
            .text("Stream demo is dropped."),
        get(format!("{base}/{{name}}/schema"), "Its columns as they are declared").json(r#"{"a": {"type": "bigint"}}"#),
        get(format!("{base}/{{name}}/seen"), "The fields of its last messages")
            .json(r#"{"messages": 1, "fields": [{"name": "a", "present": 1, "types": ["bigint"], "example": "1"}]}"#),
    ]
}

fn streams() -> Vec<Operation> {
    let mut all = relations("stream", STREAM);
    let messages = get("/streams/{name}/messages", "Each message of a stream as it comes, as a line of a recording");
    all.push(messages.answer(
        200,
        Content::Events,
        "data: {\"at\": 1760000000123, \"connection\": 1, \"text\": \"{\\\"a\\\": 1}\"}",
    ));
    all
}

fn views() -> Vec<Operation> {
    vec![
        get("/views", "The names of all").json(r#"["fleet"]"#),
        post("/views", "Creates one").body(VIEW).answer(201, Content::Text, "View fleet is created."),
        get("/views/{name}", "One with its columns, key and parameters").json(r#"{"name": "fleet", "key": ["id"]}"#),
        put("/views/{name}", "Replaces one").body(VIEW).text("View fleet is replaced."),
        delete("/views/{name}", "Drops one").text("View fleet is dropped."),
        get("/views/{name}/status", "How it stands").json(r#"{"rows": 5}"#),
        get("/views/{name}/clients", "Who watches it").json(r#"[{"peer": "127.0.0.1:5", "lagMs": 0}]"#),
        get("/views/{name}/rows", "Its rows as they stand; parameters of the view select a part")
            .query("_limit", "integer", "no more rows than this")
            .json(r#"{"rows": []}"#),
        get("/views/{name}/explain", "Its plan").text("…"),
        get("/views/{name}/tap", "Its messages and rows as they pass")
            .query("op", "string", "source, decode or project, several with commas between")
            .query("limit", "integer", "ends after so many rows")
            .query("every", "integer", "at most one row of each operator in so many ms")
            .answer(200, Content::Events, "event: project\ndata: {\"id\":7}\n\n"),
    ]
}

fn rules() -> Vec<Operation> {
    let one = |rest: &str| format!("/rules/{{id}}{rest}");
    vec![
        get("/rules", "All rules")
            .json(r#"[{"id": "r1", "name": "r1", "status": "running", "version": "", "trace": false, "tags": null}]"#),
        post("/rules", "Creates a rule")
            .query("details", "boolean", "tell every mistake with its place")
            .body(RULE)
            .answer(201, Content::Text, "Rule r1 was created successfully."),
        post("/rules/validate", "Says whether a rule is right")
            .body(RULE)
            .json(r#"{"sources": ["demo"], "valid": true}"#)
            .answer(422, Content::Text, "…"),
        get("/rules/status/all", "The state of all rules")
            .json(r#"{"r1": {"status": "running", "last_exception": "", "exceptions_total": 0}}"#),
        get("/rules/tags/match", "The rules that have all these tags").body(TAGS).json(r#"{"rules": ["r1"]}"#),
        post("/rules/bulkstart", "Starts the rules with these tags; with {}, all rules")
            .body(TAGS)
            .json(r#"[{"ruleId": "r1", "success": true}]"#),
        post("/rules/bulkstop", "Stops the rules with these tags; with {}, all rules")
            .body(TAGS)
            .json(r#"[{"ruleId": "r1", "success": true}]"#),
        get(one(""), "A rule").json(RULE),
        put(one(""), "Replaces a rule, or creates it").body(RULE).text("Rule r1 was updated successfully."),
        delete(one(""), "Deletes a rule").text("Rule r1 is dropped."),
        post(one("/start"), "Starts a rule").text("Rule r1 was started"),
        post(one("/stop"), "Stops a rule").text("Rule r1 was stopped."),
        post(one("/restart"), "Lets a rule begin again").text("Rule r1 was restarted"),
        get(one("/status"), "How a rule stands, and why it is silent")
            .query("details", "boolean", "with operators, links and clients")
            .json(r#"{"status": "running", "diagnosis": []}"#),
        get("/v2/rules/{id}/status", "The same").json(r#"{"status": "running", "diagnosis": []}"#),
        get(one("/tap"), "The rows between its operators, as they pass")
            .query("op", "string", "source, decode, filter, window, project, sink; several with commas; all without it")
            .query("limit", "integer", "end after so many rows")
            .query("every", "integer", "at most one row of each operator in so many ms")
            .answer(200, Content::Events, "data: {\"a\":1}\n\n"),
        get(one("/topo"), "Its operators as a graph").json(r#"{"sources": ["source_demo"], "edges": {}}"#),
        get(one("/explain"), "Its plan")
            .query("details", "boolean", "in full, with how it uses the data threads")
            .text("…"),
        get(one("/schema"), "The columns of its results").json(r#"{"a": {"hasIndex": true, "index": 0}}"#),
        put(one("/tags"), "Sets its tags").body(TAGS).empty(200),
        patch(one("/tags"), "Adds tags").body(TAGS).empty(200),
        delete(one("/tags"), "Removes tags").body(TAGS).empty(200),
        post(one("/trace/start"), "Marks it as traced").body(r#"{"strategy": "always"}"#).empty(200),
        post(one("/trace/stop"), "Takes the mark away").empty(200),
        get(one("/scantables"), "The rows of its scan tables").json(r#"[{"emitter": "last", "content": {"a": 1}}]"#),
        put(one("/reset_state"), "Forgets what it remembers").body(r#"{"type": "state"}"#).text("success"),
    ]
}

fn trials() -> Vec<Operation> {
    vec![
        post("/ruletest", "Makes a trial; its results are events at /test/{id} of the data server")
            .body(r#"{"id": "t", "sql": "SELECT a FROM demo", "mockSource": {"demo": {"data": [{"a": 1}], "interval": 0, "loop": false}}, "sinkProps": {"sendSingle": true}}"#)
            .json(r#"{"id": "t", "port": 10081}"#),
        post("/ruletest/{id}/start", "Starts a trial").text("Test rule t was started"),
        delete("/ruletest/{id}", "Ends a trial").text("Test rule t was stopped."),
    ]
}

fn transfer() -> Vec<Operation> {
    let secrets = |export: Operation| export.query("secrets", "boolean", "with passwords, tokens and keys");
    vec![
        secrets(post("/ruleset/export", "Streams, tables and rules").answer(
            200,
            Content::Bytes,
            r#"{"streams": {}, "tables": {}, "rules": {}}"#,
        )),
        post("/ruleset/import", "Adds streams, tables and rules")
            .body(RULESET)
            .text("imported 1 streams, 0 tables and 1 rules"),
        secrets(get("/data/export", "Everything").answer(200, Content::Bytes, "{}")),
        secrets(post("/data/export", "What these rules need").body(r#"["r1"]"#).answer(200, Content::Bytes, "{}")),
        post("/data/import", "Replaces everything, or adds to it")
            .query("partial", "string", "1: what is there stays")
            .query("stop", "string", "1: the process ends afterwards")
            .body(RULESET)
            .json(r#"{"ErrorMsg": "", "ConfigResponse": {}}"#),
        get("/data/import/status", "What the last import refused").json("{}"),
        secrets(get("/v2/data/export", "Everything, as YAML").answer(200, Content::Yaml, "…")),
        post("/v2/data/import", "Replaces everything by YAML")
            .body(RULESET)
            .json(r#"{"ErrorMsg": "", "ConfigResponse": {}}"#),
        get("/store/backup", "The store as a file, with secrets and states").answer(200, Content::Bytes, ""),
        post("/async/data/import", "Begins an import")
            .query("partial", "string", "1: what is there stays")
            .body(RULESET)
            .json(r#"{"id": "dataImport-1"}"#),
        get("/async/task/{id}", "How far an import is").json(r#"{"id": "dataImport-1", "status": "finish"}"#),
        post("/async/task/{id}/cancel", "Cancels an import").empty(200),
    ]
}

fn metadata() -> Vec<Operation> {
    let mut all = vec![
        get("/metadata/sources", "The kinds of sources")
            .query("kind", "string", "lookup: those of lookup tables")
            .json(r#"[{"name": "websocket"}]"#),
        get("/metadata/sinks", "The kinds of sinks").json(r#"[{"name": "websocket"}]"#),
        get("/metadata/connections", "The kinds of connections").json(r#"[{"name": "websocket"}]"#),
        get("/metadata/functions", "The functions of the language").json("[]"),
        get("/metadata/operators", "An empty list").json("[]"),
        get("/metadata/sources/{kind}", "The properties of a source").json("{}"),
        get("/metadata/sinks/{kind}", "The properties of a sink").json("{}"),
        get("/metadata/connections/{kind}", "The properties of a connection").json("{}"),
        get("/metadata/resource", "The conf keys of sources")
            .query("sourceType", "string", "of this kind alone")
            .json("{}"),
        get("/metadata/resources", "Which conf keys there are").json(r#"{"sources": null, "sinks": null}"#),
    ];
    for class in ["sources", "sinks", "connections"] {
        let key = format!("/metadata/{class}/{{kind}}/confKeys/{{key}}");
        all.push(get(format!("/metadata/{class}/yaml/{{kind}}"), "The conf keys of a kind").json("{}"));
        all.push(put(&*key, "Sets a conf key").body(r#"{"addr": "127.0.0.1:8080"}"#).empty(200));
        all.push(delete(&*key, "Drops a conf key").empty(200));
    }
    all
}

fn connections() -> Vec<Operation> {
    let mut all = vec![
        get("/connections", "All named connections")
            .json(r#"[{"id": "exchange", "typ": "websocket", "status": "connected"}]"#),
        post("/connections", "Makes a connection").body(CONNECTION).answer(201, Content::Text, "success"),
        get("/connections/{id}", "A connection").json(CONNECTION),
        put("/connections/{id}", "Replaces a connection").body(CONNECTION).text("success"),
        delete("/connections/{id}", "Drops a connection").text("success"),
        get("/connection/websocket", "Whether a path of the data server is held open").text("…"),
        post("/connection/websocket", "Holds a path of the data server open")
            .body(r#"{"endpoint": "/in"}"#)
            .text("success"),
        delete("/connection/websocket", "Lets a path of the data server go")
            .body(r#"{"endpoint": "/in"}"#)
            .text("success"),
    ];
    for class in ["sources", "sinks", "lookups"] {
        let check = post(format!("/metadata/{class}/connection/{{kind}}"), "Tries to connect with these properties");
        all.push(check.body(r#"{"addr": "127.0.0.1:8080", "path": "/feed"}"#).empty(200));
    }
    all
}

fn uploads() -> Vec<Operation> {
    vec![
        get("/config/uploads", "The paths of all files").json(r#"["/srv/plutino/data/uploads/prices.json"]"#),
        post("/config/uploads", "Keeps a file; also as a form with the file in uploadFile")
            .body(r#"{"name": "prices.json", "content": "[]"}"#)
            .answer(201, Content::Text, "/srv/plutino/data/uploads/prices.json"),
        delete("/config/uploads/{name}", "Deletes a file").text("ok"),
    ]
}

fn traces() -> Vec<Operation> {
    vec![
        get("/trace/{id}", "A trace: none is there"),
        get("/trace/rule/{id}", "The traces of a rule: none").json("[]"),
        post("/tracer", "Switches the collector of traces off").body(r#"{"action": false}"#).text("success"),
    ]
}

fn absent() -> Vec<Operation> {
    let mut all = vec![
        get("/plugins/udfs", "An empty list").json("[]"),
        get("/plugins/udfs/{name}", "Not found"),
        post("/plugins/functions/{name}/register", "Refused"),
        get("/plugins/portables/{name}/status", "Not found"),
        get("/schemas/{kind}", "An empty list").json("[]"),
        post("/schemas/{kind}", "Refused"),
        get("/schemas/{kind}/{name}", "Refused"),
        put("/schemas/{kind}/{name}", "Refused"),
        delete("/schemas/{kind}/{name}", "Refused"),
        get("/services", "An empty list").json("[]"),
        post("/services", "Refused"),
        get("/services/functions", "An empty list").json("[]"),
        get("/services/functions/{name}", "Not found"),
        get("/services/{name}", "Not found"),
        put("/services/{name}", "Not found"),
        delete("/services/{name}", "Not found"),
        get("/udf/javascript", "An empty list").json("[]"),
        post("/udf/javascript", "Refused"),
        get("/udf/javascript/{name}", "Not found"),
        put("/udf/javascript/{name}", "Refused"),
        delete("/udf/javascript/{name}", "Not found"),
    ];
    for kind in ["sources", "sinks", "functions", "portables"] {
        let base = format!("/plugins/{kind}");
        all.push(get(&*base, "An empty list").json("[]"));
        all.push(post(&*base, "Refused"));
        all.push(get(format!("{base}/prebuild"), "Nothing").json("{}"));
        all.push(get(format!("{base}/{{name}}"), "Not found"));
        all.push(put(format!("{base}/{{name}}"), "Refused"));
        all.push(delete(format!("{base}/{{name}}"), "Not found"));
    }
    all
}
