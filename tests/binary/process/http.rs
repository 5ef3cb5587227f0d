//! An HTTP server for tests: it records requests, and answers them as configured.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::serve::LIMIT;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// names in lower case
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("the body is text")
    }
}

/// A response to a request: status, further headers, each with its line end, and body.
pub type Reply = (u16, String, String);

type Answers = dyn Fn(&Request) -> Reply + Send + Sync;

/// Stops accepting connections when dropped; open ones are closed.
pub struct HttpServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    answers: Box<Answers>,
    requests: Mutex<Vec<Request>>,
    more: Condvar,
    sockets: Mutex<Vec<TcpStream>>,
    over: AtomicBool,
}

impl HttpServer {
    /// A server that answers everything with 200.
    pub fn start() -> HttpServer {
        HttpServer::answering(|_| (200, String::new(), String::new()))
    }

    pub fn answering(answers: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> HttpServer {
        HttpServer::at("127.0.0.1:0", answers)
    }

    /// The same at this address, once it is free.
    pub fn at(address: &str, answers: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> HttpServer {
        let began = Instant::now();
        let listener = loop {
            match TcpListener::bind(address) {
                Ok(listener) => break listener,
                Err(error) => assert!(began.elapsed() < LIMIT, "{address}: {error}"),
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            answers: Box::new(answers),
            requests: Mutex::default(),
            more: Condvar::new(),
            sockets: Mutex::default(),
            over: AtomicBool::new(false),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if serving.over.load(Ordering::Acquire) {
                    return;
                }
                let shared = serving.clone();
                shared.sockets.lock().expect("no panic").push(stream.try_clone().expect("a socket can be cloned"));
                std::thread::spawn(move || shared.serve(&stream));
            }
        });
        HttpServer { address, shared }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until this many requests have arrived.
    pub fn wait_for(&self, count: usize) -> Vec<Request> {
        self.until(&format!("{count} requests"), |requests| requests.len() >= count)
    }

    /// Waits until the requests are as expected.
    pub fn until(&self, what: &str, holds: impl Fn(&[Request]) -> bool) -> Vec<Request> {
        let requests = self.shared.requests.lock().expect("no panic");
        let (requests, _) =
            self.shared.more.wait_timeout_while(requests, LIMIT, |requests| !holds(requests)).expect("no panic");
        assert!(
            holds(&requests),
            "{what}: {} came: {:?}",
            requests.len(),
            requests.iter().rev().take(3).collect::<Vec<_>>()
        );
        requests.clone()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("no panic").clone()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Release);
        // It waits for a connection.
        let _ = TcpStream::connect(self.address);
        for socket in self.shared.sockets.lock().expect("no panic").drain(..) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        let mut writer = stream;
        while let Some(request) = read(&mut reader) {
            // It is answered first: whoever sees a request may close the connection.
            let (status, headers, body) = (self.answers)(&request);
            let answer = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len());
            if self.over.load(Ordering::Acquire) || writer.write_all(answer.as_bytes()).is_err() {
                return;
            }
            self.requests.lock().expect("no panic").push(request);
            self.more.notify_all();
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_ascii_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}
