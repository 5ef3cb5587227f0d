//! Errors of users at a running service: each error has its location and a suggestion, in addition to the texts that
//! scripts know, over REST and on the command line.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use crate::process::serve::{self, Folder, LIMIT};

/// `plutino serve`, with a stream that has columns and one that has none.
struct Served(serve::Served);

impl Served {
    async fn begin(folder: &Folder) -> Served {
        let served = Served(folder.serve());
        for sql in [
            r#"CREATE STREAM typed (price BIGINT, name STRING) WITH (TYPE="websocket", DATASOURCE="/typed")"#,
            r#"CREATE STREAM free () WITH (TYPE="websocket", DATASOURCE="/free")"#,
        ] {
            let (status, text) = served.ask("POST", "/streams", json!({"sql": sql})).await;
            assert_eq!(status, 201, "{text}");
        }
        served
    }

    /// Its output, up to a line with this part.
    async fn says(&self, part: &str) -> String {
        self.0.will_say(&[part]).await
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let answer = self.0.asks(method, path, &body).await;
        (answer.status, answer.body)
    }

    /// The refusal of a body: its text, and for each detail the location, the word there, and the hint.
    async fn refusal(&self, method: &str, path: &str, body: Value) -> (String, Vec<String>) {
        let (status, text) = self.ask(method, path, body.clone()).await;
        assert_eq!(status, 400, "{path} {body}: {text}");
        let plain: Value = serde_json::from_str(&text).expect("an error is JSON");
        let (status, text) = self.ask(method, &format!("{path}?details"), body.clone()).await;
        assert_eq!(status, 400, "{path} {body}: {text}");
        let mut answer: Value = serde_json::from_str(&text).expect("an error is JSON");
        let details = answer.as_object_mut().expect("an object").remove("details").unwrap_or_default();
        // Without the parameter, the response is what eKuiper's scripts expect, and nothing else.
        assert_eq!(plain, answer);
        let details = details.as_array().cloned().unwrap_or_default();
        let shown = details.iter().map(|detail| {
            let of = |name: &str| detail[name].as_str().unwrap_or("-").to_owned();
            format!("{}:{}:{} {} | {}", of("in"), detail["line"], detail["column"], of("message"), of("hint"))
        });
        (answer["message"].as_str().expect("an error has a text").to_owned(), shown.collect())
    }

    /// A verb of the command line; exit code and stderr.
    async fn verb(&self, arguments: &[&str], input: &str) -> (Option<i32>, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_plutino"))
            .args(arguments)
            .env("PLUTINO_URL", self.0.url(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        stdin.write_all(input.as_bytes()).await.expect("it reads");
        drop(stdin);
        let output = timeout(LIMIT, child.wait_with_output()).await.expect("it ends").expect("it runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("stderr is text"))
    }
}

fn rule(sql: &str) -> Value {
    json!({"id": "r", "sql": sql, "actions": [{"log": {}}]})
}

#[tokio::test]
async fn each_mistake_has_its_place_and_a_suggestion() {
    let folder = Folder::new("mistakes-places");
    let served = Served::begin(&folder).await;
    for (sql, message, details) in [
        (
            "SELECT nosuch(a) FROM free",
            "invalid rule json: Parse SQL SELECT nosuch(a) FROM free error: function nosuch not found.",
            &["sql:1:8 function nosuch not found | -"][..],
        ),
        (
            "SELECT a FROM gone",
            "fail to get stream gone, please check if stream is created",
            &["sql:1:15 fail to get stream gone, please check if stream is created | -"],
        ),
        (
            "SELECT uper(a) FROM free",
            "invalid rule json: Parse SQL SELECT uper(a) FROM free error: function uper not found.",
            &["sql:1:8 function uper not found | did you mean upper?"],
        ),
        (
            "SELECT a FROM fre",
            "fail to get stream fre, please check if stream is created",
            &["sql:1:15 fail to get stream fre, please check if stream is created | did you mean free?"],
        ),
        ("SELECT prise FROM typed", "unknown field prise", &["sql:1:8 unknown field prise | did you mean price?"]),
        (
            "SELECT a FROM free\n  WEHRE a > 1",
            "invalid rule json: Parse SQL SELECT a FROM free\n  WEHRE a > 1 error: found \"WEHRE\", expected EOF..",
            &["sql:2:3 found \"WEHRE\", expected EOF. | did you mean WHERE?"],
        ),
        (
            "SELECT count(*) FROM free GROUP BY TUMBLINGWINDO(ss, 10)",
            "invalid rule json: Parse SQL SELECT count(*) FROM free GROUP BY TUMBLINGWINDO(ss, 10) error: function \
             TUMBLINGWINDO not found.",
            &["sql:1:36 function TUMBLINGWINDO not found | did you mean TUMBLINGWINDOW?"],
        ),
        (
            "SELECT prise, lwer(name) FROM typed WHERE nmae = 5",
            "unknown field prise",
            &[
                "sql:1:8 unknown field prise | did you mean price?",
                "sql:1:15 function lwer not found | did you mean lower?",
                "sql:1:43 unknown field nmae | did you mean name?",
            ],
        ),
    ] {
        let (said, found) = served.refusal("POST", "/rules", rule(sql)).await;
        assert_eq!((said.as_str(), found.iter().map(String::as_str).collect::<Vec<_>>()), (message, details.to_vec()));
        let (said, found) = served.refusal("PUT", "/rules/r", rule(sql)).await;
        assert!(said.starts_with("Update rule error: "), "{said}");
        assert_eq!(found, details, "{sql}");
        let trial = json!({"id": "t", "sql": sql, "sinkProps": {}});
        let (said, found) = served.refusal("POST", "/ruletest", trial).await;
        assert!(said.starts_with("fail to run rule t: "), "{said}");
        assert_eq!(found, details, "{sql}");
    }
    let (status, text) = served.ask("POST", "/rules/validate", rule("SELECT uper(a) FROM free")).await;
    let plain = "invalid rule json: Parse SQL SELECT uper(a) FROM free error: function uper not found.";
    assert_eq!((status, text.as_str()), (422, plain));
    let (status, text) = served.ask("POST", "/rules/validate?details", rule("SELECT uper(a) FROM free")).await;
    assert_eq!(
        (status, text.as_str()),
        (
            422,
            "invalid rule json: Parse SQL SELECT uper(a) FROM free error: function uper not found.\n    1:8 | SELECT \
             uper(a) FROM free\n        |        ^^^^\n    hint: did you mean upper?"
        )
    );
    let (said, found) = served
        .refusal("POST", "/streams", json!({"sql": "CREATE STREAM s (a INT) WITH (DATASORCE=\"/s\", SHARED=\"yes\")"}))
        .await;
    assert!(said.starts_with("Stream command error: found \"INT\", expect valid stream field types("), "{said}");
    let starts = ["sql:1:20 found \"INT\"", "sql:1:31 found \"DATASORCE\"", "sql:1:54 found \"yes\""];
    assert!(found.len() == 3 && found.iter().zip(starts).all(|(found, start)| found.starts_with(start)), "{found:#?}");
    assert!(found[0].ends_with("did you mean BIGINT?") && found[1].ends_with("did you mean DATASOURCE?"));
}

#[tokio::test]
async fn all_of_a_rule_is_looked_at() {
    let folder = Folder::new("mistakes-rule");
    let served = Served::begin(&folder).await;
    let wrong = json!({
        "id": "r", "sql": "SELECT uper(a) FROM free",
        "actions": [{"websocket": {"sendSingle": 5}}, {"websockt": {}}, {"memory": {}}],
        "options": {"qos": 9, "isEventTim": true},
    });
    let (said, found) = served.refusal("POST", "/rules", wrong).await;
    assert_eq!(said, "sink websocket: sendSingle is 5, expected true or false");
    for part in [
        "sink websocket: sendSingle is 5, expected true or false | -",
        "set path, now \"\", to a path such as /feed | set path, such as \"path\": \"/feed\"",
        "sink websockt is not defined: there are websocket, memory, rest, file, sse, log and nop | did you mean websocket?",
        "sink memory: property topic is the topic",
        "option qos is 9, expected 0, 1 or 2 | -",
        "unknown option isEventTim is ignored | did you mean isEventTime?",
        "sql:1:8 function uper not found | did you mean upper?",
    ] {
        assert!(found.iter().any(|found| found.contains(part)), "{part}\n{found:#?}");
    }
    assert_eq!(found.len(), 7, "{found:#?}");
    // For a long body only locations in the statement are given.
    let long = json!({
        "id": "r", "sql": "SELECT uper(a) FROM free", "description": "x".repeat(2 << 20),
        "actions": [{"websockt": {}}],
    });
    let (_, found) = served.refusal("POST", "/rules", long).await;
    assert_eq!(found.len(), 2, "{found:#?}");
    for part in ["-:null:null sink websockt is not defined", "sql:1:8 function uper not found | did you mean upper?"] {
        assert!(found.iter().any(|found| found.contains(part)), "{part}\n{found:#?}");
    }
    // eKuiper accepts options that it does not know: the log reports them.
    let mut misspelt = rule("SELECT a FROM free");
    misspelt["options"] = json!({"isEventTim": true});
    let (status, text) = served.ask("POST", "/rules", misspelt).await;
    assert_eq!(status, 201, "{text}");
    let line = served.says("isEventTim").await;
    assert!(line.contains("WARN") && line.contains("did you mean isEventTime?") && line.contains("\"r\""), "{line}");

    let (said, _) =
        served.refusal("PUT", "/metadata/sources/websocket/confKeys/k", json!({"addr": 5, "pingInterval": "x"})).await;
    assert!(
        said.starts_with("Type conversion failed: property addr is 5, expected host:port; property ping"),
        "{said}"
    );
    let (status, text) =
        served.ask("PUT", "/metadata/sources/websocket/confKeys/k", json!({"addr": "h:1", "pingIntervl": 5})).await;
    assert_eq!((status, text.as_str()), (200, ""));
    let line = served.says("pingIntervl").await;
    assert!(line.contains("did you mean pingInterval?"), "{line}");
}

#[tokio::test]
async fn the_command_line_shows_the_place() {
    let folder = Folder::new("mistakes-verbs");
    let served = Served::begin(&folder).await;
    let definition = r#"{"sql": "SELECT uper(a) FROM free", "actions": [{"log": {}}]}"#;
    let (code, said) = served.verb(&["create", "--details", "rule", "r", definition], "").await;
    assert_eq!(code, Some(1));
    assert_eq!(
        said,
        "Create rule  error : invalid rule json: Parse SQL SELECT uper(a) FROM free error: function uper not \
         found..\n    1:8 | SELECT uper(a) FROM free\n        |        ^^^^\n    hint: did you mean upper?\n"
    );
    let (code, said) = served.verb(&["create", "--details", "stream", "s", "() WITH (DATASORCE=\"/x\")"], "").await;
    assert_eq!(code, Some(1));
    assert!(
        said.contains("CREATE STREAM s () WITH (DATASORCE") && said.contains("hint: did you mean DATASOURCE?"),
        "{said}"
    );
    for (input, part) in [
        ("SELECT uper(a) FROM free\n", "hint: did you mean upper?"),
        ("SELECT a FORM free\n", "hint: did you mean FROM?"),
    ] {
        let (code, said) = served.verb(&["query"], input).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("^^^^") && said.contains(part), "{said}");
    }
    let (code, said) = served.verb(&["query"], "\nquit\n").await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn a_sink_has_room_for_its_drops() {
    let folder = Folder::new("mistakes-drops");
    let served = Served::begin(&folder).await;
    let rules = [
        json!({"id": "reads", "sql": "SELECT a FROM free", "actions": [{"websocket": {"path": "/nobody"}}]}),
        json!({"id": "writes", "sql": "SELECT 1 AS a FROM free", "actions": [{"log": {}}]}),
    ];
    for rule in rules {
        let (status, text) = served.ask("POST", "/rules", rule).await;
        assert_eq!(status, 201, "{text}");
    }
    let (_, connections) = served.ask("GET", "/connections?forceAll=true", Value::Null).await;
    assert!(connections.contains("$$ws//free") && connections.contains("$$ws//nobody"), "{connections}");
    let (_, status) = served.ask("GET", "/rules/reads/status", Value::Null).await;
    let status: Value = serde_json::from_str(&status).expect("a status is JSON");
    assert_eq!(status["sink_websocket_0_0_dropped"], json!({}));
}

#[tokio::test]
async fn what_would_concern_everything_by_mistake_is_refused() {
    let folder = Folder::new("everything");
    let served = Served::begin(&folder).await;
    let (status, text) = served.ask("POST", "/rules", rule("SELECT a FROM free")).await;
    assert_eq!(status, 201, "{text}");
    // A row of data in place of an export.
    for content in [r#"{"device": "a", "t": 80}"#, r#"{"rulez": {}}"#] {
        let (status, text) = served.ask("POST", "/data/import", json!({"content": content})).await;
        assert!(
            status == 400 && text.contains("this is not an export: it has none of streams, tables, rules"),
            "{text}"
        );
    }
    // A misspelt member must not stop all rules.
    let (status, text) = served.ask("POST", "/rules/bulkstop", json!({"tag": ["nosuch"]})).await;
    assert!(status == 400 && text.contains("missing field `tags`"), "{text}");
    let (_, rules) = served.ask("GET", "/rules", Value::Null).await;
    assert!(rules.contains(r#""status":"running""#), "{rules}");
    let (_, streams) = served.ask("GET", "/streams", Value::Null).await;
    assert_eq!(streams.trim(), r#"["free","typed"]"#);
    let (status, text) = served.ask("POST", "/rules/bulkstop", json!({})).await;
    assert!(status == 200 && text.contains(r#""success":true"#), "{text}");
    let (_, rules) = served.ask("GET", "/rules", Value::Null).await;
    assert!(!rules.contains(r#""status":"running""#), "{rules}");
}

#[tokio::test]
async fn names_have_a_longest_length() {
    let folder = Folder::new("long");
    let served = Served::begin(&folder).await;
    let (longest, longer) = ("n".repeat(255), "n".repeat(256));
    let stream =
        |name: &str| json!({"sql": format!("CREATE STREAM {name} () WITH (DATASOURCE=\"/s\", TYPE=\"websocket\")")});
    let view = |name: &str| json!({"sql": format!("CREATE VIEW {name} AS SELECT count(*) AS n FROM s")});
    let rule = |id: &str| json!({"id": id, "sql": "SELECT a FROM s", "actions": [{"log": {}}], "triggered": false});
    let connection = |id: &str| json!({"id": id, "typ": "websocket", "props": {"path": "/s"}});
    let (status, text) = served.ask("POST", "/streams", stream("s")).await;
    assert_eq!(status, 201, "{text}");
    let confkey = |name: &str| format!("/metadata/sources/websocket/confKeys/{name}");
    for (method, path, body) in [
        ("POST", "/streams".to_owned(), stream(&longer)),
        ("PUT", format!("/streams/{longer}"), stream(&longer)),
        ("POST", "/views".to_owned(), view(&longer)),
        ("POST", "/rules".to_owned(), rule(&longer)),
        ("PUT", format!("/rules/{longer}"), rule(&longer)),
        ("POST", "/connections".to_owned(), connection(&longer)),
        ("PUT", confkey(&longer), json!({"path": "/s"})),
    ] {
        let (status, text) = served.ask(method, &path, body).await;
        assert!(status == 400 && text.contains("has 256 bytes, at most 255 are possible"), "{path}: {status} {text}");
    }
    for (method, path, body) in [
        ("POST", "/streams".to_owned(), stream(&longest)),
        ("POST", "/rules".to_owned(), rule(&longest)),
        ("PUT", confkey(&longest), json!({"path": "/s"})),
    ] {
        let (status, text) = served.ask(method, &path, body).await;
        assert!(status < 300, "{path}: {status} {text}");
    }
}

#[test]
fn a_service_without_its_certificates_does_not_start() {
    let folder = Folder::new("certificates");
    folder.write("etc/plutino.yaml", "source:\n  httpServerTls:\n    certfile: no.pem\n    keyfile: no.key\n");
    let said = folder.refused();
    assert!(said.contains("source.httpServerTls.certfile") && said.contains("no.pem"), "{said}");
}

#[tokio::test]
async fn connections_and_rule_sets_are_accepted_with_warnings() {
    let folder = Folder::new("accepted");
    let served = Served::begin(&folder).await;
    let connection = json!({"id": "c", "typ": "websocket", "props": {"path": "/c", "pingIntervall": "1s"}});
    let (status, text) = served.ask("POST", "/connections?details", connection.clone()).await;
    assert_eq!(status, 201, "{text}");
    let answer: Value = serde_json::from_str(&text).expect("it has warnings");
    assert_eq!(answer["message"], "success");
    assert_eq!(answer["warnings"][0]["hint"], "did you mean pingInterval?", "{text}");
    // Without the parameter, the text is eKuiper's.
    assert_eq!(served.ask("PUT", "/connections/c", connection.clone()).await, (200, "success".to_owned()));
    let (_, text) = served.ask("PUT", "/connections/c?details", connection).await;
    assert!(text.contains("pingIntervall"), "{text}");
    let streams = json!({"s": "CREATE STREAM s () WITH (DATASOURCE=\"/s\")"});
    let content = json!({"streams": streams}).to_string();
    let (_, plain) = served.ask("POST", "/ruleset/import", json!({"content": content})).await;
    assert_eq!(plain, "imported 1 streams, 0 tables and 0 rules");
    let (_, text) = served.ask("POST", "/ruleset/import?details", json!({"content": content})).await;
    let answer: Value = serde_json::from_str(&text).expect("it has warnings");
    assert_eq!(answer["message"], plain);
    assert!(text.contains("it has no TYPE"), "{text}");
}

#[tokio::test]
async fn timestamps_in_another_unit_are_a_warning_of_the_status() {
    let folder = Folder::new("units");
    let served = Served::begin(&folder).await;
    let stream = "CREATE STREAM timed () WITH (TYPE=\"websocket\", DATASOURCE=\"/timed\", TIMESTAMP=\"at\")";
    assert_eq!(served.ask("POST", "/streams", json!({ "sql": stream })).await.0, 201);
    let rule = json!({
        "id": "r", "sql": "SELECT count(*) FROM timed GROUP BY TUMBLINGWINDOW(ss, 1)", "actions": [{"nop": {}}],
        "options": {"isEventTime": true},
    });
    assert_eq!(served.ask("POST", "/rules", rule).await.0, 201);
    let mut sender = tokio_tungstenite::connect_async(served.0.data_url("/timed")).await.expect("it is there").0;
    let message = tokio_tungstenite::tungstenite::Message::text("{\"at\": 1700000000}");
    futures_util::SinkExt::send(&mut sender, message).await.expect("it is there");
    let seen = async {
        loop {
            let (_, text) = served.ask("GET", "/rules/r/status?details", Value::Null).await;
            if text.contains("the timestamps in at look like epoch_s, but are read as ms") {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, seen).await.expect("the status says it");
}
