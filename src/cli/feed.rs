//! `plutino feed`: a websocket peer that sends lines, for trying things.

use std::path::PathBuf;

use clap::Args;

use super::peer::Peer;
use super::player::Track;
use super::{Failure, Interrupts, block_on, say};

/// Send the lines of a file, each one message, to a websocket endpoint
///
/// With --listen, every client that connects gets the file from its start, until Ctrl-C; lines of stdin go to the
/// first client.
#[derive(Args)]
pub struct Feed {
    #[command(flatten)]
    peer: Peer,
    /// File with one message a line; - or nothing: stdin
    file: Option<PathBuf>,
    /// Messages per second; without it, as fast as they are taken
    #[arg(long, value_name = "N", value_parser = super::run::rate)]
    rate: Option<f64>,
    /// Start again at the end of the file
    #[arg(long = "loop")]
    repeat: bool,
}

impl Feed {
    pub fn run(self) -> Result<(), Failure> {
        let file = self.file.filter(|file| file.as_os_str() != "-");
        if self.repeat && file.is_none() {
            return Err(Failure::Usage("--loop needs a file: stdin cannot be read twice".to_owned()));
        }
        let track = Track { file, rate: self.rate, repeat: self.repeat };
        block_on(async {
            let mut interrupts = Interrupts::listen()?;
            tokio::select! {
                done = async { if self.peer.listen { serve(&self.peer, &track).await } else { send(&self.peer, &track).await } } => done,
                () = interrupts.next() => Ok(()),
            }
        })
    }
}

async fn send(peer: &Peer, track: &Track) -> Result<(), Failure> {
    let websocket = peer.dial().await?;
    let sent = track.play(websocket).await.map_err(|error| Failure::Refused(error.to_string()))?;
    say(&format!("sent {} to {}", super::messages(sent), peer.url));
    Ok(())
}

async fn serve(peer: &Peer, track: &Track) -> Result<(), Failure> {
    let door = std::rc::Rc::new(peer.bind().await?);
    let clients = tokio::task::LocalSet::new();
    clients
        .run_until(async {
            loop {
                let stream = door.client().await;
                if track.file.is_none() {
                    let Some(websocket) = door.greet(stream).await else { continue };
                    let sent = track.play(websocket).await.map_err(|error| Failure::Refused(error.to_string()))?;
                    say(&format!("sent {}", super::messages(sent)));
                    return Ok(());
                }
                let (door, track) = (door.clone(), track.clone());
                tokio::task::spawn_local(async move {
                    let Some(websocket) = door.greet(stream).await else { return };
                    match track.play(websocket).await {
                        Ok(sent) => say(&format!("sent {} to a client", super::messages(sent))),
                        Err(error) => say(&error.to_string()),
                    }
                });
            }
        })
        .await
}
