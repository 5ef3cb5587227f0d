//! An installed eKuiper as a peer: started on free ports, given stream and rule through its REST API.
//!
//! It runs in its own folder with a copy of its configuration, so nothing of the installation is changed.

use crate::candidate::{STREAM, rule};
use crate::failure::{Doing, Outcome, wrong};
use crate::process::{Process, free_port};
use crate::workload::Workload;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The time limit for its REST API to respond.
const STARTING: Duration = Duration::from_secs(30);

/// Starts the binary with the rule of a workload.
pub fn start(binary: &Path, workload: &Workload, port: u16, folder: &Path) -> Outcome<Process> {
    let binary = fs::canonicalize(binary).doing("looking for kuiperd")?;
    let Some(etc) = configuration(&binary) else {
        return wrong(format!("no etc/kuiper.yaml beside or above {}, nor in /etc/kuiper", binary.display()));
    };
    copy(&etc, &folder.join("etc"))?;
    for name in ["data", "log", "plugins"] {
        fs::create_dir_all(folder.join(name)).doing("making folders for kuiperd")?;
    }
    let rest = free_port()?;
    let mut command = Command::new(&binary);
    command.current_dir(folder).env("KuiperBaseKey", folder);
    for (name, value) in [
        ("BASIC__RESTIP", "127.0.0.1".to_owned()),
        ("BASIC__RESTPORT", rest.to_string()),
        ("BASIC__IP", "127.0.0.1".to_owned()),
        ("BASIC__PORT", free_port()?.to_string()),
        ("BASIC__CONSOLELOG", "false".to_owned()),
        ("SOURCE__HTTPSERVERIP", "127.0.0.1".to_owned()),
        ("SOURCE__HTTPSERVERPORT", port.to_string()),
    ] {
        command.env(format!("KUIPER__{name}"), value);
    }
    let mut process = Process::start("kuiperd", command, folder)?;
    let until = Instant::now() + STARTING;
    while request(rest, "GET", "/", None).is_err() {
        process.alive()?;
        if Instant::now() > until {
            return wrong(format!("the REST API of kuiperd did not answer: {}", process.said()));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    request(rest, "POST", "/streams", Some(&json!({ "sql": STREAM })))?;
    request(rest, "POST", "/rules", Some(&rule(workload, json!({}))))?;
    Ok(process)
}

/// The folder `etc` of an installation: next to the binary's folder as in the archive, or the location of the packages.
fn configuration(binary: &Path) -> Option<PathBuf> {
    let above = binary.ancestors().skip(1).take(3).map(|folder| folder.join("etc"));
    above.chain([PathBuf::from("/etc/kuiper")]).find(|etc| etc.join("kuiper.yaml").is_file())
}

fn copy(from: &Path, to: &Path) -> Outcome<()> {
    const DOING: &str = "copying kuiperd's configuration";
    fs::create_dir_all(to).doing(DOING)?;
    for entry in fs::read_dir(from).doing(DOING)? {
        let entry = entry.doing(DOING)?;
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target)?,
            false => fs::copy(entry.path(), target).map(|_| ()).doing(DOING)?,
        }
    }
    Ok(())
}

/// One REST call; any response other than 2xx is an error.
fn request(port: u16, method: &str, path: &str, body: Option<&Value>) -> Outcome<()> {
    let doing = format!("{method} {path} of kuiperd");
    let body = body.map_or(String::new(), Value::to_string);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).doing(&doing)?;
    stream.set_read_timeout(Some(STARTING)).doing(&doing)?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).doing(&doing)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).doing(&doing)?;
    match answer.starts_with(b"HTTP/1.1 2") {
        true => Ok(()),
        false => wrong(format!("{doing}: {}", String::from_utf8_lossy(&answer))),
    }
}
