//! Access control: the service as a process, with TLS, tokens, origins and client certificates as its configuration
//! says.

use std::io::Write;
use std::process::Stdio;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::process::serve::{Folder, LIMIT, Served};

/// A service with this configuration; further files are already in `folder`.
fn served(folder: &Folder, config: &str) -> Served {
    folder.write("etc/plutino.yaml", config);
    folder.serve()
}

/// Requests something of the REST API, with headers, each with its line end.
pub async fn ask(served: &Served, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
    request(TcpStream::connect(&served.rest).await.unwrap(), method, path, headers, body).await
}

/// The address of its data server.
pub fn data_address(served: &Served) -> String {
    format!("127.0.0.1:{}", served.data_port)
}

/// Status and body of the response to a request; 0 if there is none.
pub async fn request(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (u16, String) {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(head.as_bytes()).await?;
        stream.read_to_end(&mut answer).await
    };
    let _ = timeout(LIMIT, exchange).await.expect("an answer in time");
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, text.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.to_owned()))
}

/// The status of a websocket handshake; the rest is not read.
pub async fn shake(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str, headers: &str) -> u16 {
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    let mut line = vec![0; 12];
    let exchange = async {
        stream.write_all(head.as_bytes()).await?;
        stream.read_exact(&mut line).await
    };
    match timeout(LIMIT, exchange).await.expect("an answer in time") {
        Ok(_) => String::from_utf8_lossy(&line)[9..].parse().unwrap_or(0),
        Err(_) => 0,
    }
}

/// Files of an authority, and of a server and a client certificate signed by it.
pub struct Certificates {
    authority: CertificateDer<'static>,
    client: (CertificateDer<'static>, PrivateKeyDer<'static>),
}

pub fn certificates(folder: &Folder) -> Certificates {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let made = || {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.signed_by(&key, &issuer).unwrap(), key)
    };
    let (server, server_key) = made();
    let (client, client_key) = made();
    std::fs::write(folder.path("ca.pem"), authority.pem()).unwrap();
    std::fs::write(folder.path("server.pem"), server.pem()).unwrap();
    std::fs::write(folder.path("server.key"), server_key.serialize_pem()).unwrap();
    let client_key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(client_key.serialize_der()));
    Certificates { authority: authority.der().clone(), client: (client.der().clone(), client_key) }
}

impl Certificates {
    pub async fn connect(&self, address: &str, with_own: bool) -> std::io::Result<impl AsyncRead + AsyncWrite + Unpin> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match with_own {
            true => builder.with_client_auth_cert(vec![self.client.0.clone()], self.client.1.clone_key()).unwrap(),
            false => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        timeout(LIMIT, TlsConnector::from(Arc::new(config)).connect(name, stream)).await.expect("TLS in time")
    }
}

/// A token of the issuer whose key the tests have.
pub fn signed(claims: Value) -> String {
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../keys/issuer.key")).unwrap();
    let key = RsaKeyPair::from_pkcs8(key.secret_der()).unwrap();
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&json!({"alg": "RS256", "typ": "JWT"})), part(&claims));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature).unwrap();
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

pub const STREAM: &str = r#"{"sql": "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")"}"#;
pub const RULE: &str = r#"{"id": "r", "sql": "SELECT * FROM demo", "actions": [{"websocket": {"path": "/out"}}]}"#;

#[tokio::test]
async fn the_api_asks_for_a_token() {
    let folder = Folder::new("secure-token");
    folder.write("etc/mgmt/issuer.pub", include_str!("../keys/issuer.pub"));
    let served = served(&folder, "basic: {authentication: true}");
    let good = signed(json!({"iss": "issuer.pub", "aud": "eKuiper"}));
    for open in ["/", "/ping"] {
        assert_eq!(ask(&served, "GET", open, "", "").await.0, 200);
    }
    assert_eq!(ask(&served, "GET", "/nothing", "", "").await.0, 404);
    assert_eq!(ask(&served, "GET", "/streams", "", "").await, (401, "missing_token\n".to_owned()));
    assert_eq!(ask(&served, "POST", "/streams", "Authorization: x\r\n", STREAM).await.0, 401);
    let expired = signed(json!({"iss": "issuer.pub", "aud": "eKuiper", "exp": 1}));
    let refused = ask(&served, "GET", "/streams", &format!("Authorization: {expired}\r\n"), "").await;
    assert!(refused.1.contains("token is expired"), "{refused:?}");
    let outside = signed(json!({"iss": "../plutino.yaml", "aud": "eKuiper"}));
    let refused = ask(&served, "GET", "/streams", &format!("Authorization: {outside}\r\n"), "").await;
    assert!(refused.1.contains("not found target key file"), "{refused:?}");
    assert_eq!(ask(&served, "POST", "/streams", &format!("Authorization: {good}\r\n"), STREAM).await.0, 201);
    let listed = ask(&served, "GET", "/streams", &format!("Authorization: Bearer {good}\r\n"), "").await;
    assert_eq!(listed, (200, "[\"demo\"]".to_owned()));
}

#[tokio::test]
async fn the_api_speaks_tls_beside_clients_that_do_not() {
    let folder = Folder::new("secure-tls");
    let certificates = certificates(&folder);
    let served = served(&folder, "basic: {restTls: {certfile: server.pem, keyfile: server.key}}");
    // A silent client, and one that does not speak TLS, delay no others.
    let _silent = TcpStream::connect(&served.rest).await.unwrap();
    assert_eq!(ask(&served, "GET", "/ping", "", "").await.0, 0);
    let stream = certificates.connect(&served.rest, false).await.unwrap();
    assert_eq!(request(stream, "GET", "/streams", "", "").await, (200, "[]".to_owned()));
}

#[tokio::test]
async fn the_data_server_knows_origins_and_tokens() {
    let config = "source:\n  httpServerOrigins: ['https://board.example']\n  httpServerTokens: [secret]\n";
    let folder = Folder::new("secure-gate");
    let served = served(&folder, config);
    assert_eq!(ask(&served, "POST", "/streams", "", STREAM).await.0, 201);
    assert_eq!(ask(&served, "POST", "/rules", "", RULE).await.0, 201);
    let address = data_address(&served);
    let shake =
        async |path: &str, headers: &str| shake(TcpStream::connect(&address).await.unwrap(), path, headers).await;
    let token = "Authorization: Bearer secret\r\n";
    assert_eq!(shake("/out", "").await, 401);
    assert_eq!(shake("/nowhere", "").await, 401, "strangers do not learn which paths there are");
    assert_eq!(shake("/nowhere", token).await, 404);
    assert_eq!(shake("/out", token).await, 101);
    assert_eq!(shake("/out?access_token=secret", "").await, 101);
    assert_eq!(shake("/out", &format!("{token}Origin: https://evil.example\r\n")).await, 403);
    assert_eq!(shake("/out", &format!("{token}Origin: https://board.example\r\n")).await, 101);
    let overview = ask(&served, "GET", "/overview", "", "").await.1;
    assert!(overview.contains("there is no token"), "{overview}");
    let (status, metrics) = ask(&served, "GET", "/metrics", "", "").await;
    assert_eq!(status, 200);
    for line in [
        "plutino_refused_handshakes_total{cause=\"token\"} 2",
        "plutino_refused_handshakes_total{cause=\"origin\"} 1",
        "plutino_refused_handshakes_total{cause=\"path\"} 1",
        "kuiper_rule_count{status=\"running\"} 1",
        "kuiper_rule_status{rule=\"r\"} 1",
        "kuiper_source_records_in_total{rule=\"r\",type=\"source\",op=\"demo\",op_instance=\"0\"} 0",
        "kuiper_sink_connection_status{rule=\"r\",type=\"sink\",op=\"websocket_0\",op_instance=\"0\"} 1",
    ] {
        assert!(metrics.lines().any(|known| known == line), "{line} is not in\n{metrics}");
    }
    // Every sample follows the type of its family, and no family occurs twice.
    let families: Vec<&str> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let mut once = families.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), families.len());
}

#[tokio::test]
async fn the_data_server_asks_for_certificates() {
    let folder = Folder::new("secure-mtls");
    let certificates = certificates(&folder);
    let config = "source:\n  httpServerTls: {certfile: server.pem, keyfile: server.key, clientCaFile: ca.pem}\n";
    let served = served(&folder, config);
    assert_eq!(ask(&served, "POST", "/streams", "", STREAM).await.0, 201);
    assert_eq!(ask(&served, "POST", "/rules", "", RULE).await.0, 201);
    let address = data_address(&served);
    let known = certificates.connect(&address, true).await.unwrap();
    assert_eq!(shake(known, "/out", "").await, 101);
    // With TLS 1.3 a client notices the refusal at its first read.
    let status = match certificates.connect(&address, false).await {
        Ok(stranger) => shake(stranger, "/out", "").await,
        Err(_) => 0,
    };
    assert_eq!(status, 0);
}

#[tokio::test]
async fn metrics_have_a_port_of_their_own() {
    let folder = Folder::new("secure-prometheus");
    let served = served(&folder, "basic: {prometheus: true, prometheusPort: 0}");
    let line = served.says(&["metrics on http://"]);
    let address = line.split("http://").nth(1).unwrap().trim_end_matches("/metrics").to_owned();
    let stream = TcpStream::connect(address).await.unwrap();
    let (status, metrics) = request(stream, "GET", "/metrics", "", "").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("kuiper_rule_count{status=\"running\"} 0"), "{metrics}");
}

#[tokio::test]
async fn the_command_line_gets_in_and_what_it_changes_is_in_the_log_files() {
    let folder = Folder::new("secure-cli");
    let _ = certificates(&folder);
    folder.write("etc/mgmt/issuer.pub", include_str!("../keys/issuer.pub"));
    let config = "basic: {restTls: {certfile: server.pem, keyfile: server.key}, authentication: true, \
                  enableRestAuditLog: true, fileLog: true, logFormat: json}";
    let served = served(&folder, config);
    let token = signed(json!({"iss": "issuer.pub", "aud": "eKuiper"}));
    let port = served.rest.rsplit(':').next().unwrap();
    let cli = async |token: &str, ca: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
        command.args(["create", "--url", &format!("https://localhost:{port}"), "--token", token, "--ca", ca]);
        command.args(["stream", "demo", r#"() WITH (TYPE="websocket", DATASOURCE="/in")"#]);
        timeout(LIMIT, command.current_dir(&folder.0).output()).await.expect("an answer in time").unwrap()
    };
    assert!(!cli("wrong", "ca.pem").await.status.success());
    let said = cli(&token, "server.key").await;
    assert!(String::from_utf8_lossy(&said.stderr).contains("holds no certificate"), "{said:?}");
    let said = cli(&token, "ca.pem").await;
    assert!(said.status.success(), "{said:?}");
    // A separate thread writes the file.
    let written = async {
        loop {
            let files = std::fs::read_dir(folder.path("log")).unwrap().flatten();
            let text: String = files.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect();
            if let Some(line) = text.lines().find(|line| line.contains("plutino::audit") && line.ends_with('}')) {
                break serde_json::from_str::<Value>(line).unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let line = timeout(LIMIT, written).await.expect("a line of the change");
    assert_eq!((&line["fields"]["path"], &line["fields"]["status"]), (&json!("/streams"), &json!(201)));
}

/// The output and messages of the shell for one statement. It is ended once it has printed a line or a message.
fn shell(folder: &Folder, arguments: &[&str]) -> String {
    use std::io::{BufRead, BufReader};
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_plutino"))
        .arg("query")
        .args(arguments)
        .current_dir(&folder.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut input = child.stdin.take().expect("stdin is a pipe");
    input.write_all(b"SELECT id FROM demo\n").expect("it reads");
    let (told, tells) = std::sync::mpsc::channel();
    let out: Box<dyn std::io::Read + Send> = Box::new(child.stdout.take().expect("stdout is a pipe"));
    let said: Box<dyn std::io::Read + Send> = Box::new(child.stderr.take().expect("stderr is a pipe"));
    for pipe in [out, said] {
        let told = told.clone();
        std::thread::spawn(move || {
            BufReader::new(pipe).lines().map_while(Result::ok).for_each(|line| drop(told.send(line)));
        });
    }
    let line = tells.recv_timeout(LIMIT).expect("it prints or says something");
    input.write_all(b"quit\n").expect("it reads");
    child.wait().expect("it ends");
    line
}

#[tokio::test]
async fn the_shell_reads_results_behind_tls_and_tokens() {
    for (tls, tokens) in [(false, true), (true, false), (true, true)] {
        let folder = Folder::new("secure-shell");
        let _ = certificates(&folder);
        folder.write("data/rows.json", r#"[{"id": 7}]"#);
        let tls_files = if tls { "  httpServerTls: {certfile: server.pem, keyfile: server.key}\n" } else { "" };
        let known = if tokens { "  httpServerTokens: [secret]\n" } else { "" };
        let served = served(&folder, &format!("source:\n  httpServerIp: 127.0.0.1\n{tls_files}{known}"));
        let stream = r#"{"sql": "CREATE STREAM demo () WITH (TYPE=\"file\", DATASOURCE=\"rows.json\")"}"#;
        assert_eq!(ask(&served, "POST", "/streams", "", stream).await.0, 201);
        let url = format!("http://localhost:{}", served.rest.rsplit(':').next().unwrap());
        let (ca, token) = (["--ca", "ca.pem"], ["--data-token", "secret"]);
        let mut all = vec!["--url", url.as_str()];
        all.extend(if tls { &ca[..] } else { &[] });
        let without = shell(&folder, &all);
        match tokens {
            true => assert!(without.contains("pass it with --data-token"), "{without}"),
            false => assert_eq!(without, r#"[{"id":7}]"#),
        }
        all.extend(token);
        assert_eq!(shell(&folder, &all), r#"[{"id":7}]"#, "tls {tls}, tokens {tokens}");
        if tls {
            let stranger = shell(&folder, &["--url", &url, "--data-token", "secret"]);
            assert!(stranger.contains("pass its certificates with --ca"), "{stranger}");
        }
        if tokens {
            *all.last_mut().expect("there is one") = "wrong";
            let refused = shell(&folder, &all);
            assert!(refused.contains("the data server does not accept the token of --data-token"), "{refused}");
        }
    }
}
