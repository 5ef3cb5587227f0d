//! Rules that start together, such as those of a file. No source begins before all rules are attached; otherwise the
//! rules that start last would miss the first messages.

use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;

use super::Engine;
use crate::io::source::OpenSource;
use crate::sync::locked;

/// While this exists, the sources of starting rules do not begin.
pub struct Together {
    starts: Starts,
    control: Handle,
    ended: bool,
}

/// The sources that wait because rules start together.
#[derive(Clone, Default)]
pub(super) struct Starts(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    /// the number of [`Together`] that exist
    keepers: usize,
    sources: Vec<Begin>,
}

/// A source to begin.
#[derive(Clone)]
pub(super) struct Begin {
    pub source: Arc<dyn OpenSource>,
    /// whether it feeds a table of a rule, whose rows must be there before the first rows of streams
    pub is_table: bool,
}

impl Begin {
    /// Begins sources: topics first, which the streams of other rules write to, then tables.
    pub async fn all(mut sources: Vec<Begin>) {
        sources.sort_by_key(|begin| (begin.source.is_outside(), !begin.is_table));
        for begin in sources {
            begin.source.begin().await;
        }
    }
}

impl Starts {
    /// Begins the sources of a rule: now, or after all rules that start together are attached.
    pub async fn begin(&self, sources: Vec<Begin>) {
        {
            let mut held = locked(&self.0);
            if held.keepers > 0 {
                held.sources.extend(sources);
                return;
            }
        }
        Begin::all(sources).await;
    }

    fn release(&self) -> Vec<Begin> {
        let mut held = locked(&self.0);
        held.keepers -= 1;
        if held.keepers == 0 { std::mem::take(&mut held.sources) } else { Vec::new() }
    }
}

impl Together {
    /// Begins the sources that have waited.
    pub async fn end(mut self) {
        self.ended = true;
        Begin::all(self.starts.release()).await;
    }
}

impl Drop for Together {
    fn drop(&mut self) {
        if !self.ended {
            self.control.spawn(Begin::all(self.starts.release()));
        }
    }
}

impl Engine {
    /// From now on, the sources of starting rules wait until this is ended. Those of a new version of a running rule
    /// begin with it.
    pub fn start_together(&self) -> Together {
        locked(&self.starts.0).keepers += 1;
        Together { starts: self.starts.clone(), control: self.control.clone(), ended: false }
    }
}
