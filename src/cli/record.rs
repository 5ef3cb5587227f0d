//! `plutino record`: records the messages of a websocket endpoint with the times of their arrival.

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use super::peer::{Access, Peer};
use super::remote::{Door, escaped};
use super::{Failure, Interrupts, block_on, say};
use crate::io::environment::{self, UnsetVariable};
use crate::io::queue::Frame;
use crate::io::recording::{self, Recorded, Writer};
use crate::io::websocket::Wire;
use crate::text::secret::masked_url;

/// How often recorded messages are written: a process that is killed loses at most this much.
const FLUSH: Duration = Duration::from_secs(1);

/// How long peers may take to close at the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// Record the messages of a websocket endpoint, or of a stream of a running service, with the times of their arrival
///
/// The recording can be replayed at its original pace: plutino run RULEFILE --feed FILE --pace original. With --listen,
/// the messages of every client that connects are recorded; with --stream, the messages of a service's stream while a
/// rule reads it.
#[derive(Args)]
pub struct Record {
    /// ws://host:port/path or wss://host:port/path
    #[arg(required_unless_present = "stream", value_name = "URL")]
    url: Option<String>,
    /// Listen at this URL instead of dialling it
    #[arg(long, requires = "url")]
    listen: bool,
    /// Token for the data server, if the URL leads to one that requires it. Without it, PLUTINO_DATA_TOKEN is sent to a
    /// server that answers 401
    #[arg(long, value_name = "TOKEN", conflicts_with_all = ["listen", "stream"])]
    data_token: Option<String>,
    /// Send this text after connecting, such as a subscription; can be given several times. ${NAME} stands for the
    /// environment variable NAME
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["listen", "stream"])]
    send: Vec<String>,
    #[command(flatten)]
    access: Access,
    /// Record a stream of a running service instead of an endpoint
    #[arg(long, value_name = "NAME", conflicts_with_all = ["url", "retry", "headers"])]
    stream: Option<String>,
    /// URL of that service's REST API; default: from the configuration
    #[arg(long = "url", env = "PLUTINO_URL", value_name = "URL")]
    service: Option<String>,
    /// Token for that service's REST API, if it requires one
    #[arg(long, env = "PLUTINO_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// File to write, which must not exist; if its name ends in .zst, it is compressed
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// End after this many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after this time, such as 10m
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    time: Option<Duration>,
    /// Dial again every second while the endpoint does not answer, and after it closes
    #[arg(long, conflicts_with = "listen")]
    retry: bool,
}

/// The source of messages.
enum Origin {
    /// an endpoint, and what to send it first
    Peer(Peer, Vec<String>),
    Stream {
        door: Door,
        name: String,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    crate::property::duration::parse_text(text).ok_or_else(|| "expected a duration such as 30s or 10m".to_owned())
}

impl Record {
    pub fn run(self) -> Result<(), Failure> {
        let shown = self.output.display();
        let failed = |error| Failure::Refused(format!("cannot write {shown}: {error}"));
        let origin = match (self.stream, self.url) {
            (Some(name), _) => {
                let door = Door::at(self.service, self.token, self.access.ca, self.access.insecure);
                Origin::Stream { door, name }
            }
            (None, url) => {
                let (url, listen, data_token) = (url.unwrap_or_default(), self.listen, self.data_token);
                let texts = self.send.iter().map(|text| Ok(environment::expand(text)?.into_owned()));
                let texts: Result<_, UnsetVariable> = texts.collect();
                let texts = texts.map_err(|error| Failure::Usage(format!("--send: {error}")))?;
                Origin::Peer(Peer { url, listen, data_token, access: self.access }, texts)
            }
        };
        let of = match &origin {
            Origin::Peer(peer, _) => peer.url.clone(),
            Origin::Stream { door, name } => format!("{}/streams/{name}", door.base()?),
        };
        let mut writer = Writer::create(&self.output, &of).map_err(failed)?;
        let (recorded, done) = block_on(async {
            let mut interrupts = Interrupts::listen()?;
            // A short queue, so that a slow disk slows the sender.
            let (messages, arrived) = mpsc::channel(64);
            let ends = async {
                match self.time {
                    Some(time) => tokio::time::sleep(time).await,
                    None => std::future::pending().await,
                }
            };
            let recorded = Cell::new(0);
            let over = CancellationToken::new();
            let receiving = async {
                match origin {
                    Origin::Peer(peer, texts) => receive(&peer, &texts, self.retry, messages, &over).await,
                    Origin::Stream { door, name } => receive_stream(door, name, messages, &over).await,
                }
            };
            let mut receiving = pin!(receiving);
            let mut writing = pin!(write(&mut writer, arrived, self.count, &recorded));
            let done = tokio::select! {
                done = &mut receiving => {
                    // Messages that have arrived are written.
                    let written = writing.await.map_err(failed);
                    return Ok((recorded.get(), done.and(written)));
                }
                written = &mut writing => {
                    over.cancel();
                    let _ = tokio::time::timeout(GOODBYE, receiving).await;
                    return Ok((recorded.get(), written.map_err(failed)));
                }
                () = interrupts.next() => Ok(()),
                () = ends => Ok(()),
            };
            // Peers get a close frame; after that nothing more arrives.
            over.cancel();
            let _ = tokio::time::timeout(GOODBYE, receiving).await;
            let written = tokio::time::timeout(GOODBYE, writing).await;
            let written = written.unwrap_or(Ok(())).map_err(failed);
            Ok((recorded.get(), done.and(written)))
        })?;
        if recorded == 0 && done.is_err() && self.output.is_file() {
            // The next attempt may use the same name.
            let _ = std::fs::remove_file(&self.output);
            return done;
        }
        writer.flush().map_err(failed)?;
        say(&format!("recorded {} in {shown}", super::messages(recorded)));
        done
    }
}

/// Receives messages until the endpoint ends; with `--retry` or `--listen`, for ever.
async fn receive(
    peer: &Peer,
    texts: &[String],
    retry: bool,
    messages: mpsc::Sender<Recorded>,
    over: &CancellationToken,
) -> Result<(), Failure> {
    let mut connection = 0;
    if peer.listen {
        let door = peer.bind().await?;
        let mut clients = tokio::task::JoinSet::new();
        loop {
            let stream = tokio::select! {
                stream = door.client() => stream,
                () = over.cancelled() => break,
            };
            let Some(websocket) = door.greet(stream).await else { continue };
            connection += 1;
            let (messages, over) = (messages.clone(), over.clone());
            clients.spawn(async move { drop(pass_on(websocket, connection, messages, &over).await) });
            while clients.try_join_next().is_some() {}
        }
        clients.join_all().await;
        return Ok(());
    }
    let mut reported = String::new();
    loop {
        let done = match peer.dial().await {
            Ok(mut websocket) => {
                say(&format!("connected to {}", masked_url(&peer.url)));
                reported.clear();
                connection += 1;
                match send_all(&mut websocket, texts).await {
                    Ok(()) => pass_on(websocket, connection, messages.clone(), over).await,
                    Err(error) => Err(Failure::Refused(format!("cannot send to {}: {error}", masked_url(&peer.url)))),
                }
            }
            Err(failure) => Err(failure),
        };
        match done {
            Err(Failure::Refused(why)) if retry => {
                // The same reason is reported only once.
                if reported != why {
                    say(&format!("{why}; dialling again"));
                    reported = why;
                }
            }
            Ok(()) if retry => {}
            done => return done,
        }
        if over.is_cancelled() {
            return Ok(());
        }
        tokio::time::sleep(super::REDIAL).await;
    }
}

async fn send_all(websocket: &mut WebSocketStream<Wire>, texts: &[String]) -> Result<(), Error> {
    for text in texts {
        websocket.send(Message::text(text.as_str())).await?;
    }
    Ok(())
}

/// Receives the messages of a service's stream until no rule reads the stream any more.
async fn receive_stream(
    door: Door,
    name: String,
    messages: mpsc::Sender<Recorded>,
    over: &CancellationToken,
) -> Result<(), Failure> {
    let (sender, mut read) = mpsc::channel(64);
    // The client of the REST API blocks its thread.
    let mut reading = tokio::task::spawn_blocking(move || read_stream(&door, &name, &sender));
    loop {
        tokio::select! {
            message = read.recv() => {
                let Some(message) = message else { return (&mut reading).await.unwrap_or(Ok(())) };
                if messages.send(message).await.is_err() {
                    return Ok(());
                }
            }
            () = over.cancelled() => return Ok(()),
        }
    }
}

/// Reads the messages of a stream, and reports how many were lost.
fn read_stream(door: &Door, name: &str, messages: &mpsc::Sender<Recorded>) -> Result<(), Failure> {
    let body = door.download(&format!("/streams/{}/messages", escaped(name)))?;
    let (mut event, mut lost) = (String::new(), String::new());
    for line in BufReader::new(body).lines() {
        let line = line.map_err(|error| Failure::Refused(format!("the stream's messages have ended: {error}")))?;
        if line == ": recording" {
            say(&format!("recording stream {name}"));
        } else if let Some(name) = line.strip_prefix("event: ") {
            name.clone_into(&mut event);
        } else if let Some(data) = line.strip_prefix("data: ") {
            if event == "lost" {
                data.clone_into(&mut lost);
            } else if let Some(message) = recording::message(data)
                && messages.blocking_send(message).is_err()
            {
                break;
            }
        } else if line.is_empty() {
            event.clear();
        }
    }
    if !lost.is_empty() {
        say(&format!(
            "warning: {lost} messages are missing in the recording: they arrived faster than they were written"
        ));
    }
    Ok(())
}

/// Passes on the messages of a connection until it ends.
async fn pass_on<S>(
    mut websocket: WebSocketStream<S>,
    connection: u64,
    messages: mpsc::Sender<Recorded>,
    over: &CancellationToken,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let next = tokio::select! {
            next = websocket.next() => next,
            () = over.cancelled() => {
                let _ = websocket.close(None).await;
                while let Some(Ok(_)) = websocket.next().await {}
                return Ok(());
            }
        };
        let frame = match next {
            Some(Ok(Message::Text(text))) => Frame::Text(text),
            Some(Ok(Message::Binary(bytes))) => Frame::Binary(bytes),
            Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed)) | None => {
                let _ = websocket.flush().await;
                return Ok(());
            }
            Some(Ok(_)) => continue,
            Some(Err(error)) => return Err(Failure::Refused(format!("the connection broke: {error}"))),
        };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        if messages.send(Recorded { at, connection, frame, origin: None }).await.is_err() {
            return Ok(());
        }
    }
}

/// Writes messages until there are enough, or all senders are gone.
async fn write(
    writer: &mut Writer,
    mut arrived: mpsc::Receiver<Recorded>,
    count: Option<u64>,
    recorded: &Cell<u64>,
) -> std::io::Result<()> {
    let mut flush = Instant::now() + FLUSH;
    while count.is_none_or(|count| recorded.get() < count) {
        match tokio::time::timeout_at(flush, arrived.recv()).await {
            Ok(Some(message)) => {
                writer.add(&message)?;
                recorded.set(recorded.get() + 1);
            }
            Ok(None) => return Ok(()),
            Err(_) => {}
        }
        if Instant::now() >= flush {
            writer.flush()?;
            flush = Instant::now() + FLUSH;
        }
    }
    Ok(())
}
