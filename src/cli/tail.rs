//! `plutino tail`: a websocket peer that prints what it receives, for experiments.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::peer::Peer;
use super::{Failure, Interrupts, block_on, say};
use crate::io::log::add_line;
use crate::io::printable;

/// Print the messages of a websocket endpoint, one per line
///
/// With --listen, the messages of every client that connects are printed, until Ctrl-C.
#[derive(Args)]
pub struct Tail {
    #[command(flatten)]
    peer: Peer,
    /// End after this many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Dial again every second while the endpoint does not answer, and after it closes
    #[arg(long, conflicts_with = "listen")]
    retry: bool,
}

impl Tail {
    pub fn run(self) -> Result<(), Failure> {
        block_on(async {
            let mut interrupts = Interrupts::listen()?;
            let mut printer = Printer { left: self.count, line: Vec::new() };
            if self.peer.listen {
                serve(&self.peer, printer, async move { interrupts.next().await }).await
            } else {
                self.follow(&mut printer, &mut interrupts).await
            }
        })
    }
}

impl Tail {
    /// Prints what the endpoint sends, until it or the user ends; with `--retry`, until the user does.
    async fn follow(&self, printer: &mut Printer, interrupts: &mut Interrupts) -> Result<(), Failure> {
        let mut reported = String::new();
        loop {
            let dialled = tokio::select! {
                dialled = self.peer.dial() => dialled,
                () = interrupts.next() => return Ok(()),
            };
            let done = match dialled {
                Ok(mut websocket) => {
                    // Printed on stderr. A sender that starts after this line loses nothing.
                    say(&format!("connected to {}", self.peer.url));
                    reported.clear();
                    let (done, over) = tokio::select! {
                        done = print(&mut websocket, printer) => (done, !printer.wants()),
                        () = interrupts.next() => (Ok(()), true),
                    };
                    goodbye(&mut websocket).await;
                    if over {
                        return done;
                    }
                    done.and_then(|()| match self.retry {
                        true => Err(Failure::Refused("the connection has ended".to_owned())),
                        false => Ok(()),
                    })
                }
                Err(failure) => Err(failure),
            };
            match done {
                Err(Failure::Refused(why)) if self.retry => {
                    // The same reason is reported only once.
                    if reported != why {
                        say(&format!("{why}; dialling again"));
                        reported = why;
                    }
                }
                done => return done,
            }
            tokio::select! {
                () = tokio::time::sleep(super::REDIAL) => {}
                () = interrupts.next() => return Ok(()),
            }
        }
    }
}

/// Prints messages up to a limit.
struct Printer {
    left: Option<u64>,
    /// buffer for a line
    line: Vec<u8>,
}

impl Printer {
    /// Whether the limit is not reached yet.
    fn wants(&self) -> bool {
        self.left != Some(0)
    }

    fn print(&mut self, message: &Message) -> io::Result<()> {
        let bytes = match message {
            Message::Text(text) => text.as_bytes(),
            Message::Binary(bytes) => bytes,
            _ => return Ok(()),
        };
        self.line.clear();
        add_line(&mut self.line, bytes);
        let mut out = io::stdout().lock();
        out.write_all(&self.line)?;
        out.flush()?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(())
    }
}

async fn print<S>(websocket: &mut WebSocketStream<S>, printer: &mut Printer) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while printer.wants() {
        match websocket.next().await {
            Some(Ok(Message::Close(Some(frame))))
                if !matches!(frame.code, CloseCode::Normal | CloseCode::Away | CloseCode::Status) =>
            {
                let reason = printable(&frame.reason);
                return Err(Failure::Refused(format!("closed by the peer: {} {reason}", frame.code)));
            }
            Some(Ok(Message::Close(_)) | Err(Error::ConnectionClosed)) | None => return Ok(()),
            Some(Ok(message)) => printer.print(&message)?,
            Some(Err(error)) => return Err(Failure::Refused(format!("the connection broke: {error}"))),
        }
    }
    Ok(())
}

/// Sends a close frame, and waits a moment for the reply.
async fn goodbye<S>(websocket: &mut WebSocketStream<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let _ = tokio::time::timeout(Duration::from_secs(1), async {
        let _ = websocket.send(Message::Close(Some(frame))).await;
        while let Some(Ok(_)) = websocket.next().await {}
    })
    .await;
}

/// Prints what clients send, until `end`, or until the limit of messages.
async fn serve(peer: &Peer, mut printer: Printer, end: impl Future<Output = ()>) -> Result<(), Failure> {
    let door = std::rc::Rc::new(peer.bind().await?);
    let clients = tokio::task::LocalSet::new();
    // The clients hold receivers: when all are dropped, all clients have got their close frame.
    let over = watch::Sender::new(false);
    // A short queue, so that a slow reader of stdout slows the clients.
    let (messages, mut arrived) = mpsc::channel(16);
    let accepts = async {
        loop {
            let stream = door.client().await;
            let (door, messages, mut over) = (door.clone(), messages.clone(), over.subscribe());
            tokio::task::spawn_local(async move {
                let Some(mut websocket) = door.greet(stream).await else { return };
                let passes = async {
                    while let Some(Ok(message)) = websocket.next().await {
                        if messages.send(message).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = passes => {}
                    _ = over.wait_for(|over| *over) => goodbye(&mut websocket).await,
                }
            });
        }
    };
    let prints = async {
        while printer.wants() {
            match arrived.recv().await {
                Some(message) => printer.print(&message)?,
                None => break,
            }
        }
        Ok(())
    };
    clients
        .run_until(async {
            let done = tokio::select! {
                () = accepts => Ok(()),
                done = prints => done,
                () = end => Ok(()),
            };
            over.send_replace(true);
            let _ = tokio::time::timeout(Duration::from_secs(2), over.closed()).await;
            done
        })
        .await
}
