//! Who gets in: the service as a process, with TLS, tokens, origins and client certificates as its configuration says.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Nothing here takes longer, or it hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// `plutino serve` in a folder of its own.
struct Served {
    _child: Child,
    said: Lines<BufReader<ChildStderr>>,
    folder: PathBuf,
    /// host and port of the REST API
    rest: String,
}

impl Served {
    /// With this configuration; further files are already in `folder`.
    async fn start(folder: PathBuf, config: &str) -> Served {
        std::fs::create_dir_all(folder.join("etc")).unwrap();
        std::fs::write(folder.join("etc/plutino.yaml"), config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_plutino"))
            .args(["serve", "--log", "info"])
            .current_dir(&folder)
            .env("KUIPER__BASIC__RESTPORT", "0")
            .env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let said = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut served = Served { _child: child, said, folder, rest: String::new() };
        let line = served.says("serves http").await;
        served.rest = line.rsplit("//").next().unwrap().to_owned();
        served
    }

    /// The next line on stderr that has `text` in it.
    async fn says(&mut self, text: &str) -> String {
        let next = async {
            loop {
                let line = self.said.next_line().await.unwrap().expect("it goes on");
                if line.contains(text) {
                    return line;
                }
            }
        };
        timeout(LIMIT, next).await.unwrap_or_else(|_| panic!("it never says {text}"))
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let stream = TcpStream::connect(&self.rest).await.unwrap();
        request(stream, method, path, headers, body).await
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("plutino-secure-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Status and body of the answer to a request; 0 where there is none.
async fn request(
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

/// The status of a websocket handshake; what follows is left alone.
async fn shake(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str, headers: &str) -> u16 {
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

/// Files of an authority, and of a server and a client that it vouches for.
struct Certificates {
    authority: CertificateDer<'static>,
    client: (CertificateDer<'static>, PrivateKeyDer<'static>),
}

fn certificates(folder: &std::path::Path) -> Certificates {
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
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    std::fs::write(folder.join("server.pem"), server.pem()).unwrap();
    std::fs::write(folder.join("server.key"), server_key.serialize_pem()).unwrap();
    let client_key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(client_key.serialize_der()));
    Certificates { authority: authority.der().clone(), client: (client.der().clone(), client_key) }
}

impl Certificates {
    async fn connect(&self, address: &str, with_own: bool) -> std::io::Result<impl AsyncRead + AsyncWrite + Unpin> {
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

const STREAM: &str = r#"{"sql": "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")"}"#;
const RULE: &str = r#"{"id": "r", "sql": "SELECT * FROM demo", "actions": [{"websocket": {"path": "/out"}}]}"#;

#[tokio::test]
async fn the_api_asks_for_a_token() {
    let folder = folder("token");
    std::fs::create_dir_all(folder.join("etc/mgmt")).unwrap();
    std::fs::write(folder.join("etc/mgmt/issuer.pub"), include_str!("keys/issuer.pub")).unwrap();
    let served = Served::start(folder, "basic: {authentication: true}").await;
    let key = EncodingKey::from_rsa_pem(include_bytes!("keys/issuer.key")).unwrap();
    let signed = |claims: Value| encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap();
    let good = signed(json!({"iss": "issuer.pub", "aud": "eKuiper"}));
    for open in ["/", "/ping"] {
        assert_eq!(served.ask("GET", open, "", "").await.0, 200);
    }
    assert_eq!(served.ask("GET", "/nothing", "", "").await.0, 404);
    assert_eq!(served.ask("GET", "/streams", "", "").await, (401, "missing_token\n".to_owned()));
    assert_eq!(served.ask("POST", "/streams", "Authorization: x\r\n", STREAM).await.0, 401);
    let expired = signed(json!({"iss": "issuer.pub", "aud": "eKuiper", "exp": 1}));
    let refused = served.ask("GET", "/streams", &format!("Authorization: {expired}\r\n"), "").await;
    assert!(refused.1.contains("token is expired"), "{refused:?}");
    let outside = signed(json!({"iss": "../plutino.yaml", "aud": "eKuiper"}));
    let refused = served.ask("GET", "/streams", &format!("Authorization: {outside}\r\n"), "").await;
    assert!(refused.1.contains("not found target key file"), "{refused:?}");
    assert_eq!(served.ask("POST", "/streams", &format!("Authorization: {good}\r\n"), STREAM).await.0, 201);
    let listed = served.ask("GET", "/streams", &format!("Authorization: Bearer {good}\r\n"), "").await;
    assert_eq!(listed, (200, "[\"demo\"]".to_owned()));
}

#[tokio::test]
async fn the_api_speaks_tls_beside_clients_that_do_not() {
    let folder = folder("tls");
    let certificates = certificates(&folder);
    let served = Served::start(folder, "basic: {restTls: {certfile: server.pem, keyfile: server.key}}").await;
    // One that says nothing, and one that speaks no TLS, keep nobody waiting.
    let _silent = TcpStream::connect(&served.rest).await.unwrap();
    assert_eq!(served.ask("GET", "/ping", "", "").await.0, 0);
    let stream = certificates.connect(&served.rest, false).await.unwrap();
    assert_eq!(request(stream, "GET", "/streams", "", "").await, (200, "[]".to_owned()));
}

#[tokio::test]
async fn the_data_server_knows_origins_and_tokens() {
    let config =
        "source:\n  httpServerPort: 0\n  httpServerOrigins: ['https://board.example']\n  httpServerTokens: [secret]\n";
    let mut served = Served::start(folder("gate"), config).await;
    assert_eq!(served.ask("POST", "/streams", "", STREAM).await.0, 201);
    assert_eq!(served.ask("POST", "/rules", "", RULE).await.0, 201);
    let line = served.says("listening on").await;
    let address = line.split("listening on ").nth(1).unwrap().trim().to_owned();
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
    let (status, metrics) = served.ask("GET", "/metrics", "", "").await;
    assert_eq!(status, 200);
    for line in [
        "plutino_refused_handshakes_total{cause=\"token\"} 2",
        "plutino_refused_handshakes_total{cause=\"origin\"} 1",
        "plutino_refused_handshakes_total{cause=\"path\"} 1",
        "kuiper_rule_count{status=\"running\"} 1",
        "kuiper_rule_status{rule=\"r\"} 1",
        "kuiper_source_records_in_total{rule=\"r\",type=\"source\",op=\"demo\",instance=\"0\"} 0",
        "kuiper_sink_connection_status{rule=\"r\",type=\"sink\",op=\"websocket_0\",instance=\"0\"} 1",
    ] {
        assert!(metrics.lines().any(|known| known == line), "{line} is not in\n{metrics}");
    }
    // Every sample is behind the type of its family, and no family comes twice.
    let families: Vec<&str> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let mut once = families.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), families.len());
}

#[tokio::test]
async fn the_data_server_asks_for_certificates() {
    let folder = folder("mtls");
    let certificates = certificates(&folder);
    let config = "source:\n  httpServerPort: 0\n  httpServerTls: {certfile: server.pem, keyfile: server.key, clientCaFile: ca.pem}\n";
    let mut served = Served::start(folder, config).await;
    assert_eq!(served.ask("POST", "/streams", "", STREAM).await.0, 201);
    assert_eq!(served.ask("POST", "/rules", "", RULE).await.0, 201);
    let line = served.says("listening on").await;
    let address = line.split("listening on ").nth(1).unwrap().trim().to_owned();
    let known = certificates.connect(&address, true).await.unwrap();
    assert_eq!(shake(known, "/out", "").await, 101);
    // With TLS 1.3 a client learns of the refusal with its first read.
    let status = match certificates.connect(&address, false).await {
        Ok(stranger) => shake(stranger, "/out", "").await,
        Err(_) => 0,
    };
    assert_eq!(status, 0);
}

#[tokio::test]
async fn metrics_have_a_port_of_their_own() {
    let mut served = Served::start(folder("prometheus"), "basic: {prometheus: true, prometheusPort: 0}").await;
    let line = served.says("metrics on http://").await;
    let address = line.split("http://").nth(1).unwrap().trim_end_matches("/metrics").to_owned();
    let stream = TcpStream::connect(address).await.unwrap();
    let (status, metrics) = request(stream, "GET", "/metrics", "", "").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("kuiper_rule_count{status=\"running\"} 0"), "{metrics}");
}

#[tokio::test]
async fn the_command_line_gets_in_and_what_it_changes_is_in_the_log_files() {
    let folder = folder("cli");
    let _ = certificates(&folder);
    std::fs::create_dir_all(folder.join("etc/mgmt")).unwrap();
    std::fs::write(folder.join("etc/mgmt/issuer.pub"), include_str!("keys/issuer.pub")).unwrap();
    let config = "basic: {restTls: {certfile: server.pem, keyfile: server.key}, authentication: true, \
                  enableRestAuditLog: true, fileLog: true, logFormat: json}";
    let served = Served::start(folder, config).await;
    let key = EncodingKey::from_rsa_pem(include_bytes!("keys/issuer.key")).unwrap();
    let claims = json!({"iss": "issuer.pub", "aud": "eKuiper"});
    let token = encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap();
    let port = served.rest.rsplit(':').next().unwrap();
    let cli = async |token: &str, ca: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
        command.args(["create", "--url", &format!("https://localhost:{port}"), "--token", token, "--ca", ca]);
        command.args(["stream", "demo", r#"() WITH (TYPE="websocket", DATASOURCE="/in")"#]);
        timeout(LIMIT, command.current_dir(&served.folder).output()).await.expect("an answer in time").unwrap()
    };
    assert!(!cli("wrong", "ca.pem").await.status.success());
    let said = cli(&token, "server.key").await;
    assert!(String::from_utf8_lossy(&said.stderr).contains("holds no certificate"), "{said:?}");
    let said = cli(&token, "ca.pem").await;
    assert!(said.status.success(), "{said:?}");
    // The file is written by a thread of its own.
    let written = async {
        loop {
            let files = std::fs::read_dir(served.folder.join("log")).unwrap().flatten();
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
