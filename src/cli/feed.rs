//! `plutino feed`: a websocket peer that sends lines, for experiments.

use std::path::PathBuf;

use clap::Args;

use super::peer::Peer;
use super::player::{PlayError, Track};
use super::replay::{Pace, is_recording};
use super::{Failure, Interrupts, block_on, say};

/// Send the lines of a file, each one message, to a websocket endpoint
///
/// With --listen, the first client that connects gets them; then the process ends, so that a rule that dials again does
/// not get them twice.
#[derive(Args)]
pub struct Feed {
    #[command(flatten)]
    peer: Peer,
    /// File with one message per line; - or nothing: stdin
    file: Option<PathBuf>,
    /// Messages per second; by default as fast as the peer reads
    #[arg(long, value_name = "N", value_parser = super::run::rate)]
    rate: Option<f64>,
    /// How fast a recording (plutino record) is replayed: original, max, or a multiple such as 10x
    #[arg(long, value_name = "PACE", value_parser = super::replay::pace, conflicts_with_all = ["rate", "repeat"])]
    pace: Option<Pace>,
    /// Start again at the end of the file
    #[arg(long = "loop")]
    repeat: bool,
    /// Dial again every second while the endpoint does not answer, and after it closes
    #[arg(long, conflicts_with = "listen")]
    retry: bool,
}

impl Feed {
    pub fn run(self) -> Result<(), Failure> {
        let file = self.file.filter(|file| file.as_os_str() != "-");
        if self.repeat && file.is_none() {
            return Err(Failure::Usage("--loop needs a file: stdin cannot be read twice".to_owned()));
        }
        let recorded = match &file {
            Some(file) => is_recording(file)?,
            None => false,
        };
        if self.pace.is_some() && !recorded {
            let message =
                "--pace: the file has no times; --pace is for recordings (plutino record), --rate for other files";
            return Err(Failure::Usage(message.to_owned()));
        }
        let track = Track { file, recorded, rate: self.rate, pace: self.pace.unwrap_or_default(), repeat: self.repeat };
        block_on(async {
            let mut interrupts = Interrupts::listen()?;
            tokio::select! {
                done = async {
                    if self.peer.listen {
                        serve(&self.peer, &track).await
                    } else {
                        send(&self.peer, &track, self.retry).await
                    }
                } => done,
                () = interrupts.next() => Ok(()),
            }
        })
    }
}

/// Sends the track, with `retry` over as many connections as needed. If a connection breaks, messages on their way are
/// lost.
async fn send(peer: &Peer, track: &Track, retry: bool) -> Result<(), Failure> {
    let mut player = track.start();
    let mut reported = String::new();
    loop {
        let done = match peer.dial().await {
            Ok(websocket) => {
                reported.clear();
                match player.play(websocket).await {
                    Err(error @ PlayError::Read { .. }) => return Err(Failure::Refused(error.to_string())),
                    done => done.map_err(|error| Failure::Refused(error.to_string())),
                }
            }
            Err(failure) => Err(failure),
        };
        match done {
            Ok(sent) => {
                say(&format!("sent {} to {}", super::messages(sent), peer.url));
                return Ok(());
            }
            Err(Failure::Refused(why)) if retry => {
                // The same reason is reported only once.
                if reported != why {
                    say(&format!("{why}; dialling again"));
                    reported = why;
                }
            }
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(super::REDIAL).await;
    }
}

async fn serve(peer: &Peer, track: &Track) -> Result<(), Failure> {
    let door = peer.bind().await?;
    // The first client whose handshake succeeds.
    let websocket = loop {
        let stream = door.client().await;
        if let Some(websocket) = door.greet(stream).await {
            break websocket;
        }
    };
    // Further clients are refused at once, because they would not be served.
    drop(door);
    let sent = track.play(websocket).await.map_err(|error| Failure::Refused(error.to_string()))?;
    say(&format!("sent {} to a client", super::messages(sent)));
    Ok(())
}
