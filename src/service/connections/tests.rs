use std::path::Path;

use super::super::{ServiceSettings, StartError, StoreError};
use super::*;
use crate::config::Config;
use crate::io::websocket::ServerSettings;

async fn opened(data: &Path, port: u16) -> Service {
    let server = ServerSettings { ip: "127.0.0.1".to_owned(), port, ..ServerSettings::default() };
    loop {
        let config = Config { server: server.clone(), ..Config::default() };
        // The timer of the previous service releases the store shortly after.
        match Service::open(ServiceSettings { config, data: data.to_owned(), workers: 2, cluster: None }).await {
            Ok(service) => return service,
            Err(StartError::Store(StoreError::InUse(_))) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

fn props(value: Json) -> Map<String, Json> {
    value.as_object().cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_port_that_is_in_use_at_the_start_is_tried_again() {
    let data = tempfile::tempdir().expect("a temporary folder");
    let service = opened(data.path(), 0).await;
    service.create_connection("c", "WebSocket", props(json!({"datasource": "/c"}))).await.unwrap();
    assert!(service.listening().await.is_some());
    service.stop().await;
    assert!(service.listening().await.is_none());
    drop(service);

    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = other.local_addr().unwrap().port();
    let service = opened(data.path(), port).await;
    let report = service.connection("c").unwrap();
    assert_eq!((report.kind.as_str(), report.state), ("websocket", ConnectionState::Disconnected));
    assert!(report.error.is_some_and(|error| error.contains("in use by another process")));
    let refused = service.create_connection("d", "websocket", props(json!({"datasource": "/d"}))).await;
    assert!(matches!(refused, Err(ServiceError::Connection(text)) if text.contains("in use")));
    assert!(service.connection("d").is_err());
    drop(other);
    service.hold_missing().await;
    assert_eq!(service.connection("c").unwrap().state, ConnectionState::Connected);
    // If it cannot be replaced, it stays as it was.
    let refused = service.update_connection("c", "websocket", props(json!({}))).await;
    assert!(refused.is_err() && service.has_endpoint("/c").await);
    service.update_connection("c", "websocket", props(json!({"path": "/e"}))).await.unwrap();
    assert!(service.has_endpoint("/e").await && !service.has_endpoint("/c").await);
    service.stop().await;
}

#[tokio::test]
async fn a_path_that_is_asked_for_is_tried_out_however_it_is_written() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = peer.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = peer.accept().await {
            let _ = stream.read(&mut [0; 2048]).await;
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let data = tempfile::tempdir().expect("a temporary folder");
    let service = opened(data.path(), 0).await;
    for (asked, there) in [
        (json!({}), true),
        (json!({"path": ""}), true),
        (json!({"path": "/x"}), false),
        (json!({"DATASOURCE": "/x"}), false),
        (json!({"Path": "/x"}), false),
    ] {
        let mut asked = props(asked);
        asked.insert("addr".to_owned(), Json::from(addr.as_str()));
        let checked = service.check_connection(CheckedEnd::Sink, "websocket", asked.clone()).await;
        assert_eq!(checked.is_ok(), there, "{asked:?}: {checked:?}");
    }
    service.stop().await;
}

#[test]
fn entries_of_the_file_are_taken_over_once() {
    let entry = |path: &str, delete| FileEntry {
        id: "c".to_owned(),
        connection: Connection { kind: "websocket".to_owned(), props: props(json!({"path": path})) },
        delete,
    };
    let (mut live, mut gone) = (BTreeMap::new(), BTreeMap::new());
    let mut take = |entry: &FileEntry, live: &mut BTreeMap<String, (Connection, Origin)>| {
        take_over(entry, live, &mut gone).is_some()
    };
    assert!(take(&entry("/a", false), &mut live));
    assert!(!take(&entry("/a", false), &mut live), "seen before");
    assert!(take(&entry("/b", false), &mut live), "it has changed");
    assert_eq!(live["c"].0.props["path"], "/b");
    live.get_mut("c").unwrap().1.made = true;
    assert!(!take(&entry("/a", false), &mut live), "made over the API");
    assert!(take(&entry("", true), &mut live) && live.is_empty());
    assert!(!take(&entry("", true), &mut live), "taken away once");
    assert!(take(&entry("/a", false), &mut live), "made anew");
}
