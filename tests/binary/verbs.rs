//! The verbs that manage a service, in a separate process: which certificates they trust, and what they send where.

use std::process::{Command, Output};

use serde_json::json;

use crate::process::serve::{Folder, Served};

fn plutino(folder: &Folder, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
    command.args(arguments).current_dir(&folder.0).output().expect("the binary starts")
}

/// A certificate for `localhost` that no authority has signed, as an authority's own or not.
fn self_sign(folder: &Folder, is_ca: rcgen::IsCa) {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.is_ca = is_ca;
    let key = rcgen::KeyPair::generate().unwrap();
    folder.write("server.pem", &params.self_signed(&key).unwrap().pem());
    folder.write("server.key", &key.serialize_pem());
}

fn at(served: &Served) -> String {
    format!("https://localhost:{}", served.rest.rsplit(':').next().expect("a port"))
}

#[test]
fn a_self_signed_certificate_can_be_named() {
    use rcgen::{BasicConstraints, IsCa};
    for (number, kind) in [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::NoCa].into_iter().enumerate() {
        let folder = Folder::new(&format!("verbs-self-signed-{number}"));
        self_sign(&folder, kind);
        let tls = "{certfile: server.pem, keyfile: server.key}";
        folder.write("etc/plutino.yaml", &format!("basic: {{restTls: {tls}}}\nsource: {{httpServerTls: {tls}}}"));
        let served = folder.serve();
        let url = at(&served);
        for trusting in [&["--ca", "server.pem"][..], &["--insecure"]] {
            let stream = ["create", "--url", &url, "stream", "demo", r#"() WITH (TYPE="websocket", DATASOURCE="/in")"#];
            let actions = r#"{"sql": "SELECT * FROM demo", "actions": [{"websocket": {"path": "/out"}}]}"#;
            let rule = ["create", "--url", &url, "rule", "r", actions];
            for arguments in [&stream[..], &rule] {
                let done = plutino(&folder, &[arguments, trusting].concat());
                assert!(done.status.success(), "{arguments:?} {trusting:?}: {done:?}");
            }
            // The data server has no such path, but TLS was established.
            let data = format!("wss://localhost:{}/nowhere", served.data_port);
            let tail = plutino(&folder, &[&["tail", &data][..], trusting].concat());
            let said = String::from_utf8_lossy(&tail.stderr).into_owned();
            assert!(said.contains("HTTP status 404"), "{said}");
            for what in [["drop", "rule", "r"], ["drop", "stream", "demo"]] {
                let done = plutino(&folder, &[&what[..], &["--url", &url], trusting].concat());
                assert!(done.status.success(), "{what:?} {trusting:?}: {done:?}");
            }
        }
        let stranger = plutino(&folder, &["show", "streams", "--url", &url]);
        let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
        assert!(said.contains("with --ca, or trust any with --insecure"), "{said}");
        let elsewhere = plutino(
            &folder,
            &["show", "streams", "--url", &url.replace("localhost", "127.0.0.1"), "--ca", "server.pem"],
        );
        let said = String::from_utf8_lossy(&elsewhere.stderr).into_owned();
        assert!(said.contains("ask under a name of the certificate"), "{said}");
    }
}

#[test]
fn a_view_that_others_read_is_dropped_by_force() {
    let folder = Folder::new("verbs-force");
    let served = folder.serve();
    let url = format!("http://{}", served.rest);
    served.done(
        "POST",
        "/streams",
        &json!({"sql": "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")"}),
    );
    served.done("POST", "/views", &json!({"sql": "CREATE VIEW fleet WITH (KEY=\"id\") AS SELECT id, t FROM demo"}));
    served.done("POST", "/rules", &json!({"id": "r", "sql": "SELECT * FROM fleet", "actions": [{"nop": {}}]}));
    let refused = plutino(&folder, &["drop", "view", "fleet", "--url", &url]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let done = plutino(&folder, &["drop", "view", "fleet", "--force", "--url", &url]);
    assert_eq!(String::from_utf8_lossy(&done.stdout), "View fleet is dropped.\n", "{done:?}");
    assert_eq!(served.get("/views"), json!([]));
}
