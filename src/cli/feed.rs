//! `plutino feed`: a websocket peer that sends lines, for trying things.

use std::path::PathBuf;

use clap::Args;

use super::peer::Peer;
use super::player::Track;
use super::{Failure, Interrupts, block_on, say};

/// Send the lines of a file, each one message, to a websocket endpoint
///
/// With --listen, the first client that connects gets them; then the process ends. (A client that dials again when the
/// file is over, as a rule does, would get it twice otherwise.)
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
    let door = peer.bind().await?;
    // One that does not come through the handshake is none.
    let websocket = loop {
        let stream = door.client().await;
        if let Some(websocket) = door.greet(stream).await {
            break websocket;
        }
    };
    // Nobody shall wait at a door that does not open again.
    drop(door);
    let sent = track.play(websocket).await.map_err(|error| Failure::Refused(error.to_string()))?;
    say(&format!("sent {} to a client", super::messages(sent)));
    Ok(())
}
