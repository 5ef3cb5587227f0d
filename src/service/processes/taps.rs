//! Taps of a rule or view in all processes.
//!
//! Each process taps its own part. The others send their rows to process 0, one message at a time. Its answer says
//! whether the tap still has a reader.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::{Service, locked};
use super::Role;
use super::orders::{Event, Order};
use crate::metrics::{Point, TapReader, TapSettings, TapWriter, TappedRow};

/// How often a process without rows asks whether the tap still has a reader.
const ASKS: Duration = Duration::from_secs(5);

/// The most rows of a message.
const ROWS: usize = 64;

/// Taps that other processes send rows to, by number.
#[derive(Default)]
pub struct FarTaps {
    next: AtomicU64,
    writers: Mutex<HashMap<u64, TapWriter>>,
}

/// A tap to be opened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WireTap {
    number: u64,
    id: String,
    /// names of points
    points: Vec<String>,
    every: Option<Duration>,
}

/// Rows of a tap from one process.
#[derive(Debug, Serialize, Deserialize)]
pub struct WireRows {
    number: u64,
    /// each with the name of its point
    rows: Vec<(String, String)>,
    /// rows skipped since the last message
    skipped: u64,
}

impl FarTaps {
    /// Takes rows of another process; false: the tap has no reader any more.
    fn take(&self, rows: WireRows) -> bool {
        let WireRows { number, rows, skipped } = rows;
        let Some(writer) = locked(&self.writers).get(&number).cloned() else { return false };
        let rows = rows.into_iter().filter_map(|(point, text)| Some(TappedRow { point: Point::of(&point)?, text }));
        rows.for_each(|row| writer.give(row));
        writer.skip(skipped);
        !writer.is_closed()
    }
}

/// A tap that other processes send rows to, as long as this exists.
struct Entry {
    service: Service,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(followers) = self.service.followers() {
            locked(&followers.taps.writers).remove(&self.number);
        }
    }
}

impl Service {
    /// Adds the rows of the other processes to a tap of this one.
    pub(in crate::service) async fn tap_everywhere(
        &self,
        id: &str,
        settings: &TapSettings,
        mut own: TapReader,
    ) -> TapReader {
        let Some(followers) = self.followers() else { return own };
        let (writer, reader) = TapReader::open();
        let number = followers.taps.next.fetch_add(1, Ordering::Relaxed);
        locked(&followers.taps.writers).insert(number, writer.clone());
        let points = settings.points.iter().map(|point| point.as_str().to_owned()).collect();
        // The request may be cut off while the others are asked.
        let entry = Entry { service: self.clone(), number };
        followers.order(&Order::Tap(WireTap { number, id: id.to_owned(), points, every: settings.every })).await;
        tokio::spawn(async move {
            let _entry = entry;
            let mut skipped = 0;
            while let Some(row) = tokio::select! {
                row = own.next() => row,
                () = writer.closed() => None,
            } {
                writer.give(row);
                let now = own.skipped();
                writer.skip(now - skipped);
                skipped = now;
            }
        });
        reader
    }

    /// Takes rows of another process; false: the tap has no reader any more.
    pub(super) fn take_tapped(&self, rows: WireRows) -> bool {
        self.followers().is_some_and(|followers| followers.taps.take(rows))
    }

    /// Taps this process's part of a rule or view, if it runs, and sends the rows to process 0.
    pub(super) async fn follow_tap(&self, tap: WireTap) {
        let WireTap { number, id, points, every } = tap;
        let settings = TapSettings { points: points.iter().filter_map(|name| Point::of(name)).collect(), every };
        let tapped = self.inner.engine.read().await.as_ref().and_then(|engine| engine.tap(&id, &settings).ok());
        let Some(mut reader) = tapped else { return };
        let service = self.clone();
        tokio::spawn(async move {
            let mut reported = 0;
            loop {
                let mut rows = Vec::new();
                match tokio::time::timeout(ASKS, reader.next()).await {
                    Ok(Some(row)) => rows.push(row),
                    Ok(None) => return,
                    Err(_) => {}
                }
                while rows.len() < ROWS
                    && let Some(row) = reader.next_now()
                {
                    rows.push(row);
                }
                let rows = rows.into_iter().map(|row| (row.point.as_str().to_owned(), row.text)).collect();
                let skipped = reader.skipped();
                let event = Event::Tapped(WireRows { number, rows, skipped: skipped - reported });
                reported = skipped;
                let Role::Follows(leader) = service.role() else { return };
                if !leader.tell(&event).await {
                    return;
                }
            }
        });
    }
}
