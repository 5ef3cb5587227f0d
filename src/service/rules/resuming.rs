//! The start of the stored rules.
//!
//! There may be ten thousand. Several threads read and plan them, some ahead of those that start. Many start at a time,
//! so that the control thread and the data threads need not wake each other for each rule.

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::super::definition::{Definition, Planned};
use super::super::error::ServiceError;
use super::super::status::Phase;
use super::super::store::{RecordKind, Records};
use super::super::{Service, locked};
use super::entry::{Entry, NotStarted, State};
use crate::config::Config;
use crate::definition::stream::Catalog;

/// The number of rules in one task for a planning thread.
const PLANNED: usize = 128;

/// The most rules that are starting at a time.
const STARTING: usize = 64;

/// Fewer stored rules than this are read on one thread.
const MANY: usize = 256;

/// The message of a rule whose planning panicked.
const PANICKED: &str = "internal error: the code that plans the rule panicked; the log names the place";

/// A plan, with everything that it was made from. If any of it has changed by the start, the rule is planned again.
struct Replanned {
    text: Arc<str>,
    catalog: Arc<Catalog>,
    config: Arc<Config>,
    planned: Result<(Definition, Planned), ServiceError>,
}

impl Service {
    /// Restores the stored rules; [`Service::resume`] starts them.
    pub(in crate::service) fn restore_rules(&self, records: &Records) {
        let stored: Vec<(&str, &str)> = records.of(RecordKind::Rule).collect();
        let share = match stored.len() {
            len if len < MANY => len.max(1),
            len => len.div_ceil(threads()),
        };
        let mut shares = stored.chunks(share);
        let first = shares.next().unwrap_or_default();
        std::thread::scope(|scope| {
            let restore = |share: &[(&str, &str)]| share.iter().for_each(|(id, text)| self.restore_rule(id, text));
            for share in shares {
                let read = std::thread::Builder::new().name("restore".to_owned());
                if read.spawn_scoped(scope, move || restore(share)).is_err() {
                    restore(share);
                }
            }
            restore(first);
        });
    }

    fn restore_rule(&self, id: &str, text: &str) {
        let state = match Definition::read(text, Some(id), &self.config().rule) {
            Ok(definition) => {
                definition.warn();
                let phase = if definition.rule.triggered { Phase::Starting } else { Phase::Stopped };
                State { phase, created: true, ..State::of(&definition, text) }
            }
            Err(error) => {
                tracing::error!("the stored rule {id} cannot be used: {error}");
                let message = error.to_string();
                State { phase: Phase::Failed, message, created: true, ..State::unread(text) }
            }
        };
        locked(&self.inner.rules).insert(id.to_owned(), Entry::new(id, state));
    }

    /// Starts the stored views and rules. Their sources begin after all are attached.
    pub async fn resume(&self) {
        let together = self.start_together().await;
        self.resume_views().await;
        self.resume_rules().await;
        self.begin_together(together).await;
    }

    async fn resume_rules(&self) {
        let mut entries: Vec<Arc<Entry>> = locked(&self.inner.rules).values().cloned().collect();
        entries.retain(|entry| entry.phase() == Phase::Starting);
        let mut shares = entries.chunks(PLANNED).map(|share| {
            let (service, entries) = (self.clone(), share.to_vec());
            let planned = tokio::task::spawn_blocking(move || service.plan_all_again(&entries));
            (share, planned)
        });
        let mut ahead: VecDeque<_> = shares.by_ref().take(threads()).collect();
        let mut starting = FuturesUnordered::new();
        while let Some((share, mut planned)) = ahead.pop_front() {
            let planned = loop {
                tokio::select! {
                    planned = &mut planned => break planned,
                    Some(()) = starting.next() => {}
                }
            };
            // It fails only if the runtime ends.
            let Ok(planned) = planned else { break };
            ahead.extend(shares.next());
            for (entry, planned) in share.iter().zip(planned) {
                if starting.len() == STARTING {
                    starting.next().await;
                }
                starting.push(self.resume_rule(entry.clone(), planned));
            }
        }
        while starting.next().await.is_some() {}
    }

    /// Plans rules until the service stops.
    fn plan_all_again(&self, entries: &[Arc<Entry>]) -> Vec<Replanned> {
        let go_on = |_: &&Arc<Entry>| !self.inner.shutdown.is_cancelled();
        entries.iter().take_while(go_on).map(|entry| self.plan_again(entry)).collect()
    }

    fn plan_again(&self, entry: &Entry) -> Replanned {
        let (text, catalog, config) = (entry.text(), self.catalog(), self.config());
        let plan = || {
            let definition = Definition::read(&text, Some(&entry.id), &config.rule)?;
            let planned = self.plan(&definition, &text)?;
            Ok((definition, planned.unchecked()))
        };
        // A panic must not keep other rules from starting.
        let planned = catch_unwind(AssertUnwindSafe(plan));
        let planned = planned.unwrap_or_else(|_| Err(ServiceError::Start(PANICKED.to_owned())));
        Replanned { text, catalog, config, planned }
    }

    async fn resume_rule(&self, entry: Arc<Entry>, planned: Replanned) {
        let _life = entry.life.lock().await;
        if self.inner.shutdown.is_cancelled() || entry.phase() != Phase::Starting || locked(&entry.state).gone {
            return;
        }
        let Replanned { text, catalog, config, planned } = planned;
        let is_current = Arc::ptr_eq(&text, &entry.text())
            && Arc::ptr_eq(&catalog, &self.catalog())
            && Arc::ptr_eq(&config, &self.config());
        let planned = if is_current { planned } else { self.plan_again(&entry).planned };
        let started = match planned {
            Ok((definition, planned)) => self.begin(&entry, &definition, planned, None, true).await,
            Err(error) => Err(NotStarted::Refused(error)),
        };
        if let Err(NotStarted::Refused(error)) = started
            && !matches!(error, ServiceError::Stopping)
        {
            tracing::error!("rule {} cannot start: {error}", entry.id);
            let mut state = locked(&entry.state);
            (state.phase, state.message) = (Phase::Failed, error.to_string());
        }
    }
}

/// How many threads may read and plan.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(8)
}
