use super::*;

fn read(text: &str) -> (Option<Rule>, Vec<String>) {
    let document = Document::parse("r.json", text.to_owned()).unwrap();
    let mut problems = Vec::new();
    let rule = parse(&document, &document.root, None, &RuleOptions::default(), &mut problems);
    (rule, problems.iter().map(|found| found.problem.to_string()).collect())
}

#[test]
fn a_whole_rule() {
    let (rule, problems) = read(
        r#"{"id": "r1", "Name": "n", "sql": "SELECT * FROM demo", "triggered": false,
            "actions": [{"log": {}}, {"websocket": {"path": "/x", "sendSingle": true, "omitIfEmpty": true,
                "format": "json", "bufferLength": 10, "dataTemplate": ""}}, {"nop": null}],
            "options": {"isEventTime": true, "lateTolerance": "1m30s", "sendNilField": true, "sendError": "true",
                "bufferLength": 1024, "qos": 0}}"#,
    );
    assert_eq!(problems, Vec::<String>::new());
    let rule = rule.unwrap();
    assert_eq!((rule.id.as_str(), rule.name.as_str(), rule.triggered), ("r1", "n", false));
    let actions: Vec<_> = rule
        .actions
        .iter()
        .map(|a| (a.kind.as_str(), a.props.len(), a.format.send_single, a.format.omit_if_empty))
        .collect();
    assert_eq!(actions, [("log", 0, false, false), ("websocket", 1, true, true), ("nop", 0, false, false)]);
    let options = rule.options;
    assert_eq!(
        (options.event_time, options.late_tolerance, options.send_nil, options.send_error),
        (true, 90_000, true, true)
    );
}

#[test]
fn each_mistake_is_told() {
    let cases = [
        (r#"[1]"#, "r.json:1:1: error: rule: a rule is an object"),
        (r#"{"sql": "s", "actions": [{"log": {}}]}"#, "error: rule: Missing rule id."),
        (r#"{"id": "", "sql": "s", "actions": [{"log": {}}]}"#, "error: rule: Missing rule id."),
        (r#"{"id": "r", "actions": [{"log": {}}]}"#, "error: rule r: the rule has no sql"),
        (r#"{"id": "r", "sql": "s"}"#, "error: rule r: Missing rule actions."),
        (r#"{"id": "r", "sql": "s", "actions": []}"#, "error: rule r: Missing rule actions."),
        (r#"{"id": "r", "sql": 5, "actions": [{"log": {}}]}"#, "sql is 5, expected a text"),
        (r#"{"id": "r", "sql": "s", "actions": {"log": {}}}"#, "expected a list of sinks"),
        (r#"{"id": "r", "sql": "s", "actions": [{"log": 5}]}"#, "sink log is 5, expected an object"),
        (
            r#"{"id": "r", "sql": "s", "actions": [{"log": {"dataTemplate": "{{nosuch .}}"}}]}"#,
            "error: rule r: template: sink:1: function \"nosuch\" not defined",
        ),
        (
            r#"{"id": "r", "sql": "s", "actions": [{"log": {"fields": ["a"], "excludeFields": ["b"]}}]}"#,
            "field and excludeFields cannot both be set",
        ),
        (r#"{"id": "r", "sql": "s", "actions": [{"log": {"fields": "a"}}]}"#, "expected a list of names"),
        (r#"{"id": "r", "sql": "s", "actions": [{"log": {"batchSize": -1}}]}"#, "invalid batchSize -1"),
        (r#"{"id": "r", "sql": "s", "actions": [{"log": {"compression": "rar"}}]}"#, "unsupported compressor: rar"),
        (
            r#"{"id": "r", "sql": "s", "actions": [{"log": {"dataTemplate": 5}}]}"#,
            "sink log: dataTemplate is 5, expected a text",
        ),
        (r#"{"id": "r", "sql": "s", "actions": [{"log": {"batchSize": "x"}}]}"#, "expected a number of rows"),
        (r#"{"id": "r", "sql": "s", "actions": [{"log": {"lingerInterval": "x"}}]}"#, "expected milliseconds"),
        (
            r#"{"id": "r", "sql": "s", "actions": [{"log": {"format": "protobuf"}}]}"#,
            "format type protobuf not supported",
        ),
        (
            r#"{"id": "r", "sql": "s", "actions": [{"log": {"sendSingle": 1}}]}"#,
            "sink log: sendSingle is 1, expected true or false",
        ),
        (
            r#"{"id": "r", "sql": "s", "actions": [{"log": {}}], "options": {"lateTolerance": "soon"}}"#,
            "option lateTolerance is \"soon\", expected milliseconds",
        ),
        (
            r#"{"id": "r", "sql": "s", "actions": [{"log": {}}], "options": {"lateTolerence": 1}}"#,
            "warning: rule r: unknown option lateTolerence is ignored\n    hint: did you mean lateTolerance?",
        ),
        (
            r#"{"id": "r", "sql": "s", "actions": [{"log": {}}], "options": {"cron": "* * * * *"}}"#,
            "cron needs a duration",
        ),
        (
            r#"{"id": "r", "sql": "s", "actions": [{"log": {}}], "options": {"qos": 3}}"#,
            "option qos is 3, expected 0, 1 or 2",
        ),
        (
            r#"{"id": "r", "sql": "s", "actions": [{"log": {}}], "options": {"checkpointInterval": 0}}"#,
            "option checkpointInterval is 0, expected milliseconds",
        ),
        (r#"{"id": "r", "sql": "s", "actions": [{"log": {}}], "acts": 1}"#, "unknown member acts is ignored"),
    ];
    for (text, expected) in cases {
        let (_, problems) = read(text);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert!(problems[0].contains(expected), "{text}: {}", problems[0]);
    }
}

#[test]
fn of_many_unknown_members_the_rest_is_counted() {
    let many: String = (0..100).map(|number| format!(r#", "x{number}": 1"#)).collect();
    let (_, problems) = read(&format!(r#"{{"id": "r", "sql": "s", "actions": [{{"log": {{}}}}]{many}}}"#));
    let last = problems.last().expect("warnings");
    assert!(problems.len() == UNKNOWN + 1 && last.contains("68 more unknown members are ignored"), "{last}");
}
