//! Rules that start together, such as those of a file: none of their sources begins before all of them are attached.
//! Otherwise the rules that start last would miss what a source delivers at once.

use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;

use super::Engine;
use crate::io::source::OpenSource;
use crate::sync::locked;

/// Keeps the sources of rules that start from beginning, until it is ended or dropped.
pub struct Together {
    starts: Starts,
    control: Handle,
    ended: bool,
}

/// The sources that have not begun because rules start together.
#[derive(Clone, Default)]
pub(super) struct Starts(Arc<Mutex<Held>>);

#[derive(Default)]
struct Held {
    /// how many [`Together`] there are
    keepers: usize,
    sources: Vec<Begin>,
}

/// A source that is to begin.
#[derive(Clone)]
pub(super) struct Begin {
    pub source: Arc<dyn OpenSource>,
    /// of a table of a rule: its rows must be there before the first rows of streams
    pub is_table: bool,
}

impl Begin {
    /// Lets sources begin: topics first, which the streams of other rules write to, then tables.
    pub async fn all(mut sources: Vec<Begin>) {
        sources.sort_by_key(|begin| (begin.source.is_outside(), !begin.is_table));
        for begin in sources {
            begin.source.begin().await;
        }
    }
}

impl Starts {
    /// Lets the sources of a rule begin: now, or once all that start together are there.
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
    /// All are there: their sources begin.
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
    /// Sources of rules that start from now on begin when this is ended. Those of a running rule's new version begin with
    /// it.
    pub fn start_together(&self) -> Together {
        locked(&self.starts.0).keepers += 1;
        Together { starts: self.starts.clone(), control: self.control.clone(), ended: false }
    }
}
