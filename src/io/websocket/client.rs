//! The client role: dialling, and dialling again for as long as a link uses the endpoint.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio_tungstenite::tungstenite::http::header;

use super::client_queue::Peer;
use super::config::Settings;
use super::connection;
use super::dial::{self, DialError};
use super::endpoint::{Endpoint, Presence};
use super::protocol::{Opened, Side, accepted, code, offer};
use super::socket::Wire;
use crate::io::LinkState;

/// Keeps `peer` of `endpoint` connected until the endpoint closes. Runs on the control runtime; connections live on
/// `data`.
pub(super) async fn keep(endpoint: Arc<Endpoint>, peer: Arc<Peer>, data: Handle, presence: Presence) {
    let mut closing = endpoint.closing.subscribe();
    let mut wait = endpoint.terms().reconnect.initial;
    loop {
        // Links may have come and gone since the last time.
        let terms = endpoint.terms();
        let waits = terms.reconnect;
        let pause;
        let dialled = tokio::select! {
            dialled = dial(&terms) => dialled,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        match dialled.and_then(|mut opened| match opened.wire.detach() {
            Ok(()) => Ok(opened),
            Err(source) => Err(DialError::Connect { address: endpoint.settings.address(), source }),
        }) {
            Ok(opened) => {
                let began = Instant::now();
                peer.farewell.send_replace(None);
                endpoint.opens(&peer);
                if *closing.borrow() {
                    peer.dismiss(code::AWAY, "the endpoint has ended");
                }
                endpoint.stands(LinkState::Connected);
                let (place, who) = (endpoint.clone(), peer.clone());
                let ending = data.spawn(async move { connection::run(opened, &place, &who).await }).await;
                peer.hang_up();
                if !*closing.borrow() {
                    let ending = ending.unwrap_or_else(|error| {
                        let panic = "an error in this program ended the connection: please report it (--log error)";
                        Some(if error.is_panic() { panic } else { "its data thread has ended" }.to_owned())
                    });
                    endpoint.fails(ending.unwrap_or_else(|| "the peer closed the connection".to_owned()));
                }
                // A peer that closes at once is not dialled faster than one that refuses.
                if began.elapsed() > (2 * wait).max(Duration::from_secs(1)) {
                    wait = waits.initial;
                }
                pause = wait;
            }
            Err(error) => {
                pause = error.pause(wait);
                endpoint.fails(error.to_string());
            }
        }
        endpoint.stands(LinkState::Connecting);
        tokio::select! {
            () = tokio::time::sleep(jittered(pause, waits.jitter)) => {}
            _ = closing.wait_for(|closing| *closing) => break,
        }
        wait = (2 * wait).min(waits.max);
    }
    endpoint.stands(LinkState::Disconnected);
    endpoint.leave(&peer);
    drop(presence);
}

/// Dials once.
pub(super) async fn dial(settings: &Settings) -> Result<Opened<Wire>, DialError> {
    let own = settings.per_message_deflate;
    let (wire, headers) = dial::dial(settings, own.as_ref().map(offer).as_deref()).await?;
    let answers = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).into_iter();
    let answers = answers.filter_map(|answer| answer.to_str().ok());
    let deflate = own.map_or(Ok(None), |own| accepted(answers, &own));
    let deflate = deflate.map_err(|wrong| DialError::Extensions { address: settings.address(), wrong })?;
    Ok(Opened { wire, side: Side::Client, deflate })
}

/// `wait`, up to the share `jitter` of it longer or shorter, so that many clients do not come back at once.
fn jittered(wait: Duration, jitter: f64) -> Duration {
    // The keys of a new hasher are random: chance enough for a wait.
    let chance = RandomState::new().hash_one(0u8) as f64 / u64::MAX as f64;
    wait.mul_f64((1.0 + jitter * (2.0 * chance - 1.0)).max(0.0))
}
