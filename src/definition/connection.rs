//! Named connections: a peer's or an endpoint's properties, stored under a name that sources and sinks share.
//!
//! A source or sink that names one in `connectionSelector` gets the same role, peer, path, headers and certificates, so
//! the websocket hub puts it on the same endpoint. This module merges properties and reads
//! `etc/connections/connection.yaml`. It opens nothing.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value as Json};

use crate::io::connector::ConnectorError;
use crate::io::websocket::Settings;
use crate::property::Warning;
use crate::text::document::{Document, Node, Problem, Value};

/// The property by which sources and sinks name a connection.
pub const SELECTOR: &str = "connectionSelector";

/// The kinds of connections.
pub const KINDS: &[&str] = &["websocket"];

/// The key `xOperation` in an entry of the file: what to do with the connection. It is not a property.
const OPERATION: &str = "xOperation";

/// The properties that identify an endpoint. The connection's values win over those of its users.
const IDENTITY: &[&str] = &[
    "path",
    "datasource",
    "addr",
    "address",
    "scheme",
    "headers",
    "requestHeader",
    "insecureSkipVerify",
    "certificationPath",
    "privateKeyPath",
    "rootCaPath",
    "certificationRaw",
    "certficationRaw",
    "privateKeyRaw",
    "rootCaRaw",
    "tlsMinVersion",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    pub kind: String,
    /// The properties as the user wrote them.
    pub props: Map<String, Json>,
}

/// Named connections by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    known: BTreeMap<String, Connection>,
    /// In the order of the file.
    file: Vec<FileEntry>,
}

/// An entry of `connection.yaml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// The connection's id.
    pub id: String,
    pub connection: Connection,
    /// `xOperation: delete`: the entry deletes the connection.
    pub delete: bool,
}

/// Properties merged with those of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// The connection's path, if it has one.
    pub path: Option<String>,
    pub props: Map<String, Json>,
    pub warnings: Vec<Warning>,
}

impl Connection {
    /// The settings of the connection's endpoint. In the client role a missing path is `/`.
    ///
    /// # Errors
    /// [`ConnectorError`] for an unknown kind or wrong properties.
    pub fn settings(&self, id: &str) -> Result<(Settings, Vec<Warning>), ConnectorError> {
        if !KINDS.contains(&self.kind.as_str()) {
            return Err(ConnectorError::UnknownConnection(self.kind.clone()));
        }
        let mut props = self.props.clone();
        let own = text(&props, SELECTOR).map(str::to_owned);
        put(&mut props, SELECTOR, Json::from(id));
        // An address that is not a text is reported below as a wrong property.
        let dials = ["addr", "address"].iter().any(|name| {
            let given = member(&props, name).filter(|given| !given.is_null());
            given.is_some_and(|given| given.as_str().is_none_or(|given| !given.trim().is_empty()))
        });
        let path = self.path().unwrap_or(if dials { "/" } else { "" });
        let (settings, mut warnings) = Settings::connection(path, &props)?;
        if own.is_some() {
            warnings.push(Warning::other(SELECTOR, format!("property {SELECTOR} of a connection is ignored")));
        }
        Ok((settings, warnings))
    }

    /// The path in its properties.
    pub fn path(&self) -> Option<&str> {
        text(&self.props, "datasource").or(text(&self.props, "path"))
    }
}

/// The id of the connection that these properties name.
pub fn selector(props: &Map<String, Json>) -> Option<&str> {
    text(props, SELECTOR)
}

impl Connections {
    pub fn find(&self, id: &str) -> Option<&Connection> {
        self.known.get(id)
    }

    /// All connections by id.
    pub fn each(&self) -> impl Iterator<Item = (&String, &Connection)> {
        self.known.iter()
    }

    /// Adds a connection, or replaces the one with this id.
    pub fn put(&mut self, id: &str, connection: Connection) {
        self.known.insert(id.to_owned(), connection);
    }

    pub fn remove(&mut self, id: &str) {
        self.known.remove(id);
    }

    /// The entries of the file.
    pub fn file(&self) -> &[FileEntry] {
        &self.file
    }

    /// The properties of a source. EXTRA overrides the connection, which overrides the conf key; the endpoint is always
    /// the connection's. `path` is the stream's DATASOURCE.
    ///
    /// # Errors
    /// [`ConnectorError::NoConnection`]
    pub fn of_source(
        &self,
        kind: &str,
        path: &str,
        own: Map<String, Json>,
        extra: &Map<String, Json>,
    ) -> Result<Selected, ConnectorError> {
        let named = selector(extra).or_else(|| selector(&own)).map(str::to_owned);
        let layers = |connection: Option<&Connection>| {
            let mut props = own;
            connection.into_iter().for_each(|connection| put_all(&mut props, &connection.props));
            put_all(&mut props, extra);
            props
        };
        self.select(kind, named, Some(path).filter(|path| !path.is_empty()), "DATASOURCE", layers)
    }

    /// The properties of a sink: its own override those of the connection; the endpoint is always the connection's.
    ///
    /// # Errors
    /// [`ConnectorError::NoConnection`]
    pub fn of_sink(&self, kind: &str, own: &Map<String, Json>) -> Result<Selected, ConnectorError> {
        let named = selector(own).map(str::to_owned);
        let path = text(own, "datasource").or(text(own, "path"));
        let layers = |connection: Option<&Connection>| {
            let mut props = connection.map(|connection| connection.props.clone()).unwrap_or_default();
            put_all(&mut props, own);
            props
        };
        self.select(kind, named, path, "path", layers)
    }

    fn select(
        &self,
        kind: &str,
        named: Option<String>,
        path: Option<&str>,
        path_name: &str,
        layers: impl FnOnce(Option<&Connection>) -> Map<String, Json>,
    ) -> Result<Selected, ConnectorError> {
        let Some(id) = named else { return Ok(Selected { props: layers(None), ..Selected::default() }) };
        if !KINDS.contains(&kind) {
            let message = format!("property {SELECTOR} has no effect: {kind} has no connections");
            let warnings = vec![Warning::other(SELECTOR, message)];
            return Ok(Selected { props: layers(None), warnings, ..Selected::default() });
        }
        let connection = self.find(&id).ok_or_else(|| ConnectorError::NoConnection(id.clone()))?;
        let mut props = layers(Some(connection));
        let identity = |name: &str| IDENTITY.iter().any(|known| known.eq_ignore_ascii_case(name));
        props.retain(|name, _| !identity(name));
        for (name, value) in connection.props.iter().filter(|(name, _)| identity(name)) {
            props.insert(name.clone(), value.clone());
        }
        put(&mut props, SELECTOR, Json::from(id.as_str()));
        let shared = connection.path().unwrap_or("/").to_owned();
        let mut warnings = Vec::new();
        if let Some(path) = path.filter(|path| *path != shared) {
            let message = format!("{path_name} {path} is not used: the connection {id} has the path {shared}");
            warnings.push(Warning::other("path", message));
        }
        props.retain(|name, _| !["path", "datasource"].iter().any(|known| known.eq_ignore_ascii_case(name)));
        props.insert("path".to_owned(), Json::from(shared.as_str()));
        Ok(Selected { path: Some(shared), props, warnings })
    }

    /// Reads `connection.yaml`: entries by kind and id. Adds its connections.
    pub fn read(&mut self, document: &Document, problems: &mut Vec<Problem>) {
        for kind in document.root.members() {
            let lower = kind.key.to_ascii_lowercase();
            if !KINDS.contains(&lower.as_str()) {
                let message = format!("connection type {} not found: its connections are ignored", kind.key);
                let hint = Some("there is websocket".to_owned());
                problems.push(document.warning(kind.place, "", message).with_hint(hint));
                continue;
            }
            if !matches!(kind.node.value, Value::Map(_) | Value::Null) {
                let message = format!("{} is {}, expected an object of connections", kind.key, kind.node.kind());
                problems.push(document.error(kind.node.place, "", message));
            }
            for entry in kind.node.members() {
                self.read_entry(document, &lower, &entry.key, &entry.node, problems);
            }
        }
    }

    fn read_entry(&mut self, document: &Document, kind: &str, id: &str, node: &Node, problems: &mut Vec<Problem>) {
        let subject = format!("connection {id}");
        if !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            let message = "an id has letters, digits, - and _ only";
            problems.push(document.error(node.place, &subject, message));
            return;
        }
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            let message = format!("is {}, expected an object of properties", node.kind());
            problems.push(document.error(node.place, &subject, message));
            return;
        }
        let mut props = node.json_members();
        let operation = props.keys().find(|name| name.eq_ignore_ascii_case(OPERATION)).cloned();
        let delete = match operation.and_then(|name| props.remove(&name)).as_ref().and_then(Json::as_str) {
            Some("delete") => true,
            None | Some("create") => false,
            Some(other) => {
                let message = format!("{OPERATION} is {other:?}, expected create or delete");
                problems.push(document.error(node.place, &subject, message));
                return;
            }
        };
        let connection = Connection { kind: kind.to_owned(), props };
        if !delete {
            match connection.settings(id) {
                Ok((_, warnings)) => {
                    problems.extend(warnings.iter().map(|warning| warning.problem(document, node, &subject, "")));
                }
                Err(ConnectorError::Properties(refused)) => {
                    problems.extend(refused.faults.iter().map(|fault| fault.problem(document, node, &subject, "")));
                    return;
                }
                Err(error) => {
                    problems.push(document.error(node.place, &subject, error.to_string()));
                    return;
                }
            }
            self.put(id, connection.clone());
        }
        self.file.push(FileEntry { id: id.to_owned(), connection, delete });
    }
}

/// A property, regardless of case.
fn member<'a>(props: &'a Map<String, Json>, name: &str) -> Option<&'a Json> {
    let loose = || props.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
    props.get(name).or_else(loose)
}

/// The text of a property, unless it is empty.
fn text<'a>(props: &'a Map<String, Json>, name: &str) -> Option<&'a str> {
    member(props, name)?.as_str().filter(|text| !text.trim().is_empty())
}

/// Sets properties, each in place of one whose name differs only in case. Somebody may send many.
pub(crate) fn put_all(props: &mut Map<String, Json>, more: &Map<String, Json>) {
    let mut names: HashMap<String, String> = HashMap::with_capacity(props.len() + more.len());
    for name in props.keys() {
        names.entry(name.to_ascii_lowercase()).or_insert_with(|| name.clone());
    }
    for (name, value) in more {
        let name = names.entry(name.to_ascii_lowercase()).or_insert_with(|| name.clone());
        props.insert(name.clone(), value.clone());
    }
}

/// Sets a property, replacing one whose name differs only in case.
pub(crate) fn put(props: &mut Map<String, Json>, name: &str, value: Json) {
    let same = props.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned();
    props.insert(same.unwrap_or_else(|| name.to_owned()), value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Json) -> Map<String, Json> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn properties_replace_those_whose_names_differ_in_case() {
        let mut props = map(json!({"Addr": "a", "addr": "b", "path": "/"}));
        put_all(&mut props, &map(json!({"ADDR": "c", "new": 1, "NEW": 2})));
        assert_eq!(Json::Object(props), json!({"Addr": "c", "addr": "b", "path": "/", "new": 2}));
        // Whoever may make rules may send many.
        let many: Map<String, Json> = (0..200_000).map(|n| (format!("k{n}"), Json::from(n))).collect();
        let mut props = many.clone();
        put_all(&mut props, &many);
        assert_eq!(props.len(), many.len());
    }

    fn known() -> Connections {
        let mut known = Connections::default();
        let connection = |props| Connection { kind: "websocket".to_owned(), props: map(props) };
        known
            .put("peer", connection(json!({"addr": "a:1", "path": "/p", "pingInterval": "5s", "headers": {"X": "y"}})));
        known.put("open", connection(json!({"datasource": "/open"})));
        known.put("root", connection(json!({"addr": "a:1"})));
        known
    }

    #[test]
    fn the_endpoint_is_the_connections() {
        let own = map(json!({"connectionSelector": "peer", "addr": "b:2", "Path": "/x", "insecureSkipVerify": true,
            "pingInterval": "1s", "idleTimeout": "2s"}));
        let sink = known().of_sink("websocket", &own).unwrap();
        let expected = json!({"connectionSelector": "peer", "addr": "a:1", "path": "/p", "headers": {"X": "y"},
            "pingInterval": "1s", "idleTimeout": "2s"});
        assert_eq!(Json::Object(sink.props), expected);
        let warnings: Vec<String> = sink.warnings.iter().map(Warning::to_string).collect();
        assert_eq!(warnings, ["path /x is not used: the connection peer has the path /p"]);

        let extra = map(json!({"idleTimeout": "3s", "addr": "c:3"}));
        let source = known().of_source("websocket", "/p", own, &extra).unwrap();
        let expected = json!({"connectionSelector": "peer", "addr": "a:1", "path": "/p", "headers": {"X": "y"},
            "pingInterval": "5s", "idleTimeout": "3s"});
        assert_eq!(Json::Object(source.props), expected);
        assert_eq!((source.path.as_deref(), source.warnings.len()), (Some("/p"), 0));
    }

    #[test]
    fn what_names_no_connection_stays_as_it_is() {
        let own = map(json!({"addr": "b:2", "connectionSelector": ""}));
        assert_eq!(known().of_sink("websocket", &own).unwrap().props, own);
        let extra = map(json!({"ADDR": "c:3"}));
        let source = known().of_source("websocket", "/d", own.clone(), &extra).unwrap();
        assert_eq!(source.props["addr"], "c:3");
        assert_eq!(source.path, None);
        let unknown = known().of_sink("websocket", &map(json!({"connectionSelector": "nosuch"})));
        assert!(matches!(unknown, Err(ConnectorError::NoConnection(id)) if id == "nosuch"));
        let log = known().of_sink("log", &map(json!({"connectionSelector": "nosuch"}))).unwrap();
        assert_eq!(log.warnings.len(), 1);
    }

    #[test]
    fn connections_are_checked() {
        for (kind, props, expected) in [
            ("websocket", json!({"datasource": "/x"}), Ok("/x")),
            ("websocket", json!({"path": "/x"}), Ok("/x")),
            ("websocket", json!({"addr": "h:1"}), Ok("ws://h:1/")),
            ("websocket", json!({"addr": "h:1", "path": "/p"}), Ok("ws://h:1/p")),
            ("websocket", json!({}), Err("websocket endpoint should start with /: set datasource")),
            ("websocket", json!({"addr": "h:x", "path": "/p"}), Err("property addr is \"h:x\", expected host:port")),
            ("nosuch", json!({}), Err("unknown connection type nosuch")),
        ] {
            let connection = Connection { kind: kind.to_owned(), props: map(props) };
            match (connection.settings("c1"), expected) {
                (Ok((settings, _)), Ok(address)) => {
                    assert_eq!(settings.address(), address);
                    assert_eq!(settings.connection.as_deref(), Some("c1"));
                }
                (Err(error), Err(text)) => assert!(error.to_string().contains(text), "{error}"),
                (got, expected) => panic!("{got:?}, not {expected:?}"),
            }
        }
    }

    #[test]
    fn the_file_is_read() {
        let text = "websocket:\n  c1:\n    addr: h:1\n    path: /p\n  c2:\n    xOperation: delete\n  c3:\n    addr: 5\n  \
                    c 4:\n    addr: h:1\n  c5:\n    xOperation: make\n  c6: 7\nmqtt:\n  m1:\n    server: x\n";
        let document = Document::parse("connection.yaml", text.to_owned()).unwrap();
        let (mut connections, mut problems) = (Connections::default(), Vec::new());
        connections.read(&document, &mut problems);
        assert!(connections.find("c1").is_some() && connections.find("c2").is_none());
        let entries: Vec<(&str, bool)> =
            connections.file().iter().map(|entry| (entry.id.as_str(), entry.delete)).collect();
        assert_eq!(entries, [("c1", false), ("c2", true)]);
        let messages: Vec<String> = problems.iter().map(Problem::to_string).collect();
        for expected in [
            "connection c3: property addr is 5, expected host:port",
            "connection c 4: an id has letters",
            "connection c5: xOperation is \"make\"",
            "connection c6: is a number",
            "connection type mqtt not found",
        ] {
            assert!(messages.iter().any(|message| message.contains(expected)), "{expected}\n{messages:#?}");
        }
        assert_eq!(messages.len(), 5);
    }
}
