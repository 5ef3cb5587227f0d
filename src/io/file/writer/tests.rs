//! What the writer leaves in its folder.

use crate::io::sink::SinkSettings;
use std::sync::mpsc;

use bytes::Bytes;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

use super::*;
use crate::format::address::Address;
use crate::format::compress::Method;
use crate::format::sink_format::{OutputFormat, SinkFormat};
use crate::io::batch_queue::QueueLimit;
use crate::io::queue::{MessageBatch, Outlet};

struct Folder(TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().expect("a temporary folder"))
    }

    /// The names of the files in it, with their texts.
    fn files(&self) -> Vec<(String, String)> {
        let entries = std::fs::read_dir(&self.0).expect("it is there").map(|entry| entry.expect("it is there"));
        let mut files: Vec<(String, String)> =
            entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), text_of(&entry.path()))).collect();
        files.sort();
        files
    }

    /// Writes messages, with their paths if they have some, and closes the sink; returns what the sink counts.
    fn write(&self, props: Json, shape: SinkFormat, messages: &[(&str, &str)]) -> crate::io::LinkStatus {
        let (mut sink, _) = FileSink::new(props.as_object().expect("an object")).expect("right");
        let shape = sink.form(shape, true).expect("right");
        let outbox = Outbox::new(QueueLimit { messages: 1000, bytes: 1 << 20 });
        for (path, message) in messages {
            let bytes = Bytes::copy_from_slice(message.as_bytes());
            let batch = MessageBatch::new(bytes, vec![message.len() as u32], true, None);
            let address: Address = Box::new([Text::from(*path)]);
            outbox.send(&Arc::new(if shape.to.is_some() { batch.addressed(vec![address]) } else { batch }));
        }
        outbox.close();
        let (_stop, stopped) = mpsc::channel();
        let files = FileRoots::new(self.0.path().to_owned());
        Writer::new(outbox.clone(), sink, files, FileWriters::default(), stopped).run();
        outbox.status(String::new())
    }
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).expect("it is text")
}

fn csv() -> SinkFormat {
    SinkFormat { format: OutputFormat::Delimited { delimiter: ",".into(), header: true }, ..SinkFormat::lists() }
}

#[test]
fn files_go_on_where_they_were() {
    let folder = Folder::new();
    let plain = [("", "{\"a\":1}"), ("", "{\"a\":\n2}")];
    folder.write(json!({"path": "l"}), SinkFormat::lists(), &plain);
    std::fs::write(folder.0.path().join("l"), text_of(&folder.0.path().join("l")) + "{\"a\"")
        .expect("it can be written");
    folder.write(json!({"path": "l"}), SinkFormat::lists(), &plain[..1]);
    for _ in 0..2 {
        folder.write(json!({"path": "j", "fileType": "json"}), SinkFormat::lists(), &plain[..1]);
        folder.write(json!({"path": "c", "fileType": "csv"}), csv(), &[("", "a,b\n1,2"), ("", "a,b\n3,4\n5,6")]);
    }
    let expected = [
        ("c", "a,b\n1,2\n3,4\n5,6\n1,2\n3,4\n5,6\n"),
        ("j", "[{\"a\":1},{\"a\":1}]"),
        ("l", "{\"a\":1}\n{\"a\": 2}\n{\"a\":1}\n"),
    ];
    assert_eq!(folder.files(), expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
}

#[test]
fn files_roll_by_count_and_size() {
    let five = ["1", "2", "3", "4", "5"].map(|n| ("", n));
    for (props, texts) in [
        (json!({"path": "a.x", "rollingCount": 2, "rollingNamePattern": "suffix"}), vec!["1\n2\n", "3\n4\n", "5\n"]),
        (json!({"path": "a.x", "rollingCount": 2, "rollingNamePattern": "prefix"}), vec!["1\n2\n", "3\n4\n", "5\n"]),
        (json!({"path": "a.x", "rollingSize": 5, "rollingCount": 0}), vec!["1\n2\n", "3\n4\n", "5\n"]),
        (json!({"path": "a.x", "rollingCount": 5, "fileType": "json"}), vec!["[1,2,3,4,5]"]),
    ] {
        let folder = Folder::new();
        let status = folder.write(props.clone(), SinkFormat::lists(), &five);
        assert_eq!((status.messages, status.dropped.len()), (5, 0));
        let files = folder.files();
        let found: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
        let mut sorted = found.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, texts, "{props}");
        let named = |name: &str| match props["rollingNamePattern"].as_str() {
            Some("prefix") => name.ends_with("-a.x"),
            Some("suffix") => name.starts_with("a-") && name.ends_with(".x"),
            _ => name == "a.x" || name.starts_with("a-"),
        };
        assert!(files.iter().all(|(name, _)| named(name)), "{files:?}");
    }
}

#[test]
fn compressed_files_are_read_as_one() {
    for (method, file_type, expected) in [
        (Method::Gzip, "lines", "1\n2\n1\n2\n"),
        (Method::Zstd, "lines", "1\n2\n1\n2\n"),
        (Method::Gzip, "json", "[1,2]"),
    ] {
        let folder = Folder::new();
        for _ in 0..2 {
            let shape = SinkFormat { compression: Some(method), ..SinkFormat::lists() };
            folder.write(json!({"path": "a", "fileType": file_type}), shape, &[("", "1"), ("", "2")]);
        }
        let bytes = std::fs::read(folder.0.path().join("a")).expect("it is there");
        // Members of zstd are unpacked one by one.
        let text = match method {
            Method::Gzip => String::from_utf8(method.unpack(&bytes).expect("it is whole")).expect("text"),
            _ => {
                let (mut text, mut rest) = (String::new(), bytes.as_slice());
                while !rest.is_empty() {
                    let mut decoder = ruzstd::decoding::StreamingDecoder::new(&mut rest).expect("a member");
                    io::Read::read_to_string(&mut decoder, &mut text).expect("it is whole");
                }
                text
            }
        };
        assert_eq!(text, expected, "{method:?} {file_type}");
    }
}

#[test]
fn messages_name_their_files() {
    let folder = Folder::new();
    let messages = [("a", "1"), ("b/c", "2"), ("a", "3"), ("../out", "4"), ("plutino.redb", "5"), ("uploads/x", "6")];
    let status = folder.write(json!({"path": "{{.p}}"}), SinkFormat::lists(), &messages);
    assert_eq!((status.messages, status.dropped), (3, vec![(INVALID, 1), (OUTSIDE, 2)]));
    assert_eq!(text_of(&folder.0.path().join("a")), "1\n3\n");
    assert_eq!(text_of(&folder.0.path().join("b/c")), "2\n");
    assert!(status.last_error.expect("an error").1.contains("basic.fileRoots"));
}

#[test]
fn more_files_than_can_be_open_are_full_when_they_are() {
    let files = 2 * OPEN;
    let names: Vec<String> = (0..files).map(|n| format!("out/{n}.x")).collect();
    let rounds = (0..5).flat_map(|_| names.iter().map(|name| (name.as_str(), "1")));
    let messages: Vec<(&str, &str)> = rounds.collect();
    for (pattern, compression) in [("none", None), ("prefix", None), ("suffix", None), ("suffix", Some(Method::Gzip))] {
        let folder = Folder::new();
        let props = json!({"path": "out/{{.p}}", "rollingCount": 2, "rollingNamePattern": pattern});
        let shape = SinkFormat { compression, ..SinkFormat::lists() };
        let status = folder.write(props, shape, &messages);
        assert_eq!((status.messages, status.dropped.len()), (5 * files as u64, 0), "{pattern}");
        let entries = std::fs::read_dir(folder.0.path().join("out")).expect("it is there");
        let mut lines: Vec<usize> = entries
            .map(|entry| {
                let bytes = std::fs::read(entry.expect("it is there").path()).expect("it can be read");
                let bytes = compression.map_or(bytes.clone(), |method| method.unpack(&bytes).expect("it is whole"));
                bytes.iter().filter(|&&byte| byte == b'\n').count()
            })
            .collect();
        lines.sort_unstable();
        let expected = [vec![1; files], vec![2; 2 * files]].concat();
        assert_eq!(lines, expected, "{pattern}");
    }
}

#[test]
fn a_closed_file_is_renamed_when_it_is_old() {
    let folder = Folder::new();
    let (mut sink, _) =
        FileSink::new(json!({"path": "{{.p}}", "rollingInterval": "1ms"}).as_object().expect("an object"))
            .expect("right");
    sink.form(SinkFormat::lists(), true).expect("right");
    let (_stop, stopped) = mpsc::channel();
    let outbox = Outbox::new(QueueLimit { messages: 10, bytes: 1000 });
    let files = FileRoots::new(folder.0.path().to_owned());
    let mut writer = Writer::new(outbox, sink, files, FileWriters::default(), stopped);
    let name = Text::from("a.x");
    assert!(writer.have(&name).is_ok_and(|cause| cause.is_none()));
    let (name, mut target) = writer.open.remove(0);
    target.add(b"1");
    target.flush().expect("it is written");
    writer.pause(name, target);
    while !writer.paused.is_empty() {
        writer.end_old();
    }
    let names: Vec<String> = folder.files().into_iter().map(|(name, _)| name).collect();
    assert!(matches!(&names[..], [only] if only.starts_with("a-") && only.ends_with(".x")), "{names:?}");
}

#[test]
fn a_name_that_is_none_holds_up_no_other() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.0.path().join("out/folder")).expect("a folder can be made");
    let long = format!("out/{}", "x".repeat(300));
    let names = [long.as_str(), "out/a\0b", "out/.", "out/folder", "out/a/../b", "out/../c", "out/a", "out/a/b"];
    let messages = names.map(|name| (name, "1"));
    let status = folder.write(json!({"path": "out/{{.p}}"}), SinkFormat::lists(), &messages);
    assert_eq!((status.messages, status.dropped), (1, vec![(INVALID, 7)]));
    assert_eq!(text_of(&folder.0.path().join("out/a")), "1\n");
    let sink = |path: &str| FileSink::new(json!({"path": path}).as_object().expect("an object")).expect("right").0;
    let below = |folders: usize| format!("out/{}a", "a/".repeat(folders));
    let (deep, deeper) = (below(15), below(16));
    for (path, name, stays) in [
        ("{{.p}}", "a/b", true),
        ("{{.p}}", "/etc/a", false),
        ("../a/b-{{.p}}.c", "../a/b-x.c", true),
        ("../a/b-{{.p}}.c", "../a/b-/../../x.c", false),
        ("/a/{{.p}}", "/a//b", true),
        ("../a", "../a", true),
        ("out/{{.p}}", deep.as_str(), true),
        ("out/{{.p}}", deeper.as_str(), false),
    ] {
        assert_eq!(sink(path).stays(name), stays, "{path} {name}");
    }
}

#[test]
fn a_file_of_another_kind_is_kept() {
    let (packed, plain) = (Method::Gzip.pack(b"old\n").expect("packed"), b"old\n".to_vec());
    for (old, compression) in [(&plain, Some(Method::Gzip)), (&plain, Some(Method::Zstd)), (&packed, None)] {
        let folder = Folder::new();
        std::fs::write(folder.0.path().join("a.x"), old).expect("it can be written");
        let shape = SinkFormat { compression, ..SinkFormat::lists() };
        let status = folder.write(json!({"path": "a.x"}), shape, &[("", "1")]);
        assert_eq!(status.messages, 1);
        let entries = std::fs::read_dir(&folder.0).expect("it is there").map(|entry| entry.expect("it is there"));
        let found: Vec<Vec<u8>> = entries.map(|entry| std::fs::read(entry.path()).expect("it is there")).collect();
        assert!(found.len() == 2 && found.contains(old), "{compression:?}");
    }
}

#[test]
fn two_sinks_do_not_write_one_file() {
    let folder = Folder::new();
    let path = folder.0.path().join("a");
    let writers = FileWriters::default();
    let (sink, _) = FileSink::new(json!({"path": "a"}).as_object().expect("an object")).expect("right");
    // Another process has its own writers.
    for (others, by) in [(writers.clone(), "another sink"), (FileWriters::default(), "another process")] {
        let open = |writers| match Target::open(&path, &sink, writers, None).expect("it can be opened") {
            Opening::Open(target) => Ok(target),
            Opening::Taken(by) => Err(by),
        };
        let first = open(&writers);
        assert!(first.is_ok());
        assert_eq!(open(&others).err(), Some(by));
        drop(first);
        assert!(open(&others).is_ok());
    }
}

#[test]
fn a_file_of_another_process_is_not_mended() {
    let folder = Folder::new();
    let props = json!({"path": "a", "rollingNamePattern": "suffix"});
    folder.write(props.clone(), SinkFormat::lists(), &[("", "1")]);
    let (name, _) = folder.files().pop().expect("a file");
    let torn = "1\n{\"half\"";
    std::fs::write(folder.0.path().join(&name), torn).expect("it can be written");
    let other = std::fs::File::open(folder.0.path().join(&name)).expect("it is there");
    other.lock().expect("it can be locked");
    folder.write(props.clone(), SinkFormat::lists(), &[("", "2")]);
    assert_eq!(text_of(&folder.0.path().join(&name)), torn);
}

#[test]
fn a_sink_that_is_stopped_counts_what_it_has_written() {
    let folder = Folder::new();
    let (sink, _) = FileSink::new(json!({"path": "a.txt"}).as_object().expect("an object")).expect("right");
    let outbox = Outbox::new(QueueLimit { messages: 1000, bytes: 1 << 20 });
    let push = || outbox.send(&Arc::new(MessageBatch::new(Bytes::from_static(b"123"), vec![1, 2, 3], true, None)));
    let (stop, stopped) = mpsc::channel();
    let mut writer =
        Writer::new(outbox.clone(), sink, FileRoots::new(folder.0.path().to_owned()), FileWriters::default(), stopped);
    push();
    let (batches, _) = writer.gather();
    assert!(writer.write(&batches).is_ok());
    drop(batches);
    push();
    let (batches, _) = writer.gather();
    drop(stop);
    assert!(writer.write(&batches).is_err());
    drop(batches);
    outbox.close();
    writer.run();
    let status = outbox.status(String::new());
    assert_eq!((status.messages, status.queued), (3, 0));
    assert_eq!(status.dropped, vec![(crate::io::UNSENT, 3)]);
    assert_eq!(text_of(&folder.0.path().join("a.txt")), "1\n2\n3\n");
}
