//! The properties of store and forward, one row each. Connectors include these rows in their own tables.

use std::time::Duration;

use super::{CacheSettings, Resend};
use crate::io::batch_queue::QueueLimit;
use crate::property::{Findings, Property};

/// The properties as written, before they are combined.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::io) struct CacheDraft {
    enabled: bool,
    memory: u64,
    disk: u64,
    page: u64,
    resend_interval: Duration,
    clean_at_stop: bool,
    alter_queue: bool,
    priority: f64,
    indicator: String,
}

/// The target of a connector's properties.
pub(in crate::io) trait TakesCache {
    fn cache(&mut self) -> &mut CacheDraft;
}

pub(in crate::io) const fn enable_cache<T: TakesCache>() -> Property<T> {
    Property::flag("enableCache", |draft: &mut T, enabled| draft.cache().enabled = enabled)
        .default("false")
        .of_sink()
        .doc(
            "Store messages on disk until the peer has received them, across restarts of both sides: see [store and \
         forward](sinks.md#store-and-forward)",
        )
}

pub(in crate::io) const fn memory_cache_threshold<T: TakesCache>() -> Property<T> {
    Property::whole("memoryCacheThreshold", 0, 1 << 40, |draft: &mut T, messages| draft.cache().memory = messages)
        .default("1024")
        .of_sink()
        .doc("Messages stored in memory, in addition to `maxDiskCache`; a multiple of `bufferPageSize`")
}

pub(in crate::io) const fn max_disk_cache<T: TakesCache>() -> Property<T> {
    Property::whole("maxDiskCache", 0, 1 << 40, |draft: &mut T, messages| draft.cache().disk = messages)
        .default("1024000")
        .of_sink()
        .doc(
            "Messages stored on disk; beyond both limits, the oldest are dropped and counted as `cache full`. A \
         multiple of `bufferPageSize`",
        )
}

pub(in crate::io) const fn buffer_page_size<T: TakesCache>() -> Property<T> {
    Property::whole("bufferPageSize", 1, 1 << 20, |draft: &mut T, messages| draft.cache().page = messages)
        .default("256")
        .of_sink()
        .doc("Messages that are read from disk at a time")
}

pub(in crate::io) const fn resend_interval<T: TakesCache>() -> Property<T> {
    Property::duration("resendInterval", |draft: &mut T, pause| draft.cache().resend_interval = pause)
        .default("0")
        .of_sink()
        .doc("The pause between two messages that were stored while the peer was away")
}

pub(in crate::io) const fn clean_cache_at_stop<T: TakesCache>() -> Property<T> {
    Property::flag("cleanCacheAtStop", |draft: &mut T, clean| draft.cache().clean_at_stop = clean)
        .default("false")
        .of_sink()
        .doc("Delete the stored messages when the rule stops")
}

pub(in crate::io) const fn resend_alter_queue<T: TakesCache>() -> Property<T> {
    Property::flag("resendAlterQueue", |draft: &mut T, alter| draft.cache().alter_queue = alter)
        .default("false")
        .of_sink()
        .doc(
            "Messages that were stored while the peer was away need not be sent before newer ones: `resendPriority` \
         determines the order",
        )
}

pub(in crate::io) const fn resend_priority<T: TakesCache>() -> Property<T> {
    Property::number("resendPriority", -1.0, 1.0, |draft: &mut T, priority| draft.cache().priority = priority)
        .default("0")
        .of_sink()
        .doc("With `resendAlterQueue`: `-1` sends newer messages first, `0` alternates, `1` sends stored ones first")
}

pub(in crate::io) const fn resend_indicator_field<T: TakesCache>() -> Property<T> {
    Property::text("resendIndicatorField", |draft: &mut T, field| draft.cache().indicator = field.to_owned())
        .of_sink()
        .doc(
            "A field that is set to `true` in messages that are repeated, or late because the peer was away; JSON \
         only",
        )
}

/// Properties that contradict each other; the texts are eKuiper's.
#[derive(Debug, thiserror::Error)]
enum CacheError {
    #[error(
        "invalid cache properties: memoryCacheThresholdTooSmall:memoryCacheThreshold must be greater than or equal to bufferPageSize"
    )]
    MemoryTooSmall,
    #[error(
        "invalid cache properties: memoryCacheThresholdNotMultiple:memoryCacheThreshold must be a multiple of bufferPageSize"
    )]
    MemoryNotMultiple,
    #[error("invalid cache properties: maxDiskCacheTooSmall:maxDiskCache must be greater than bufferPageSize")]
    DiskTooSmall,
    #[error("invalid cache properties: maxDiskCacheNotMultiple:maxDiskCache must be a multiple of bufferPageSize")]
    DiskNotMultiple,
    #[error("property resendPriority is {0}, expected -1, 0 or 1")]
    Priority(f64),
}

impl CacheDraft {
    /// The settings of the store; `None` if messages are not stored. `memory` limits the messages in memory. Errors go
    /// to `found`.
    pub fn settle(&self, memory: QueueLimit, found: &mut Findings) -> Option<CacheSettings> {
        if !self.enabled {
            return None;
        }
        let page = self.page.max(1);
        let mut refuse = |property, error: CacheError| found.refuse(property, error);
        if self.memory < page {
            refuse("memoryCacheThreshold", CacheError::MemoryTooSmall);
        } else if !self.memory.is_multiple_of(page) {
            refuse("memoryCacheThreshold", CacheError::MemoryNotMultiple);
        }
        if self.disk < page {
            refuse("maxDiskCache", CacheError::DiskTooSmall);
        } else if !self.disk.is_multiple_of(page) {
            refuse("maxDiskCache", CacheError::DiskNotMultiple);
        }
        if self.priority.fract() != 0.0 {
            refuse("resendPriority", CacheError::Priority(self.priority));
        }
        let resend = match self.priority {
            _ if !self.alter_queue => Resend::InOrder,
            ..0.0 => Resend::NewFirst,
            0.0 => Resend::InTurn,
            _ => Resend::LateFirst,
        };
        Some(CacheSettings {
            capacity: self.memory + self.disk,
            page: page as usize,
            memory,
            resend_interval: self.resend_interval,
            resend,
            clean_at_stop: self.clean_at_stop,
            indicator: (!self.indicator.is_empty()).then(|| self.indicator.as_str().into()),
        })
    }
}
