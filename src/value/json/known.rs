//! What a scanner has learned from earlier messages: the bytes before values, and the shapes of members.
//!
//! Their number and length are limited, since keys come from outside; others are read anew each time.
//!
//! This module does not read messages.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::layout::{Layout, NOWHERE, Part};
use super::shape::Shape;
use super::skip::byte;

/// A key that is not wanted; larger than any column.
pub(super) const UNWANTED: u32 = u32::MAX;

/// Stands for the start of an object in place of a lead.
pub(super) const FIRST: u32 = u32::MAX;

/// Stands for a lead that is not remembered.
pub(super) const UNKNOWN: u32 = u32::MAX - 1;

/// A new shape is replaced after this many more members of other shapes than of this one.
const PATIENCE: u32 = 4;

/// The same for a shape that has occurred often.
const MOST_PATIENCE: u32 = 16;

/// With fewer hits a shape has cost more than it has saved.
const FEW_HITS: u64 = 8;

/// The members after which a lead whose values are never alike gets another shape.
const REST: u32 = 1024;

/// The layout is made anew at most once in this many objects; more often at first.
const MOST_PAUSE: u64 = 256;

/// How many 8-byte words of a lead are compared at once.
const WORDS: usize = 4;

/// The known leads. A lead is the text before a value: brace or comma, key, colon, white space.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) leads: Vec<Lead>,
    by_bytes: HashMap<Box<[u8]>, u32, RandomState>,
    /// The lead at the start of the last object.
    pub(super) first: u32,
    /// The lead at the start of an earlier object that was another one.
    other_first: u32,
    /// The shapes of leads that follow each other.
    pub(super) layout: Layout,
    /// Whether shapes or their order have changed since the layout was made.
    stale: bool,
    /// The number of objects.
    objects: u64,
    /// The number of objects when the layout may be made anew.
    due: u64,
    /// The number of objects between the last two layouts.
    pause: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Lead {
    /// The first 32 bytes, filled up with zeros.
    words: [u64; WORDS],
    /// Ones where `words` has bytes of the lead.
    masks: [u64; WORDS],
    bytes: Box<[u8]>,
    pub(super) length: u32,
    pub(super) column: u32,
    /// The lead that followed this one last time.
    pub(super) next: u32,
    /// Another lead that followed this one before.
    other: u32,
    /// The shape of an earlier member with this lead.
    pub(super) shape: Option<Shape>,
    /// The number of the shape in the layout, or [`NOWHERE`].
    pub(super) place: u32,
    /// How often the shape has occurred again.
    hits: u64,
    /// The part of the runs of its chain in the layout that is in `hits`.
    counted: u64,
    /// The shape changes after this many more members of other shapes than of this one.
    patience: u32,
}

impl Known {
    const MOST_LEADS: usize = 1024;
    const MOST_BYTES: usize = 128;

    pub(super) fn find(&self, bytes: &[u8]) -> Option<u32> {
        self.by_bytes.get(bytes).copied()
    }

    /// Remembers a lead, unless it is too long or there are too many.
    pub(super) fn learn(&mut self, bytes: &[u8], column: u32) -> Option<u32> {
        if bytes.len() > Self::MOST_BYTES || self.leads.len() >= Self::MOST_LEADS {
            return None;
        }
        let number = self.leads.len() as u32;
        self.leads.push(Lead::new(bytes, column));
        self.by_bytes.insert(bytes.into(), number);
        Some(number)
    }

    /// Notes that `next` has followed `previous`.
    pub(super) fn follow(&mut self, previous: u32, next: u32) {
        let (last, other) = match self.leads.get_mut(previous as usize) {
            Some(lead) => (&mut lead.next, &mut lead.other),
            None if previous == FIRST => (&mut self.first, &mut self.other_first),
            None => return,
        };
        if *last != next {
            *other = std::mem::replace(last, next);
            self.stale = true;
        }
    }

    /// The lead at `at` if it has followed `previous` before, though not last time: messages of two kinds may alternate.
    pub(super) fn other(&self, previous: u32, text: &[u8], at: usize) -> Option<u32> {
        let other = match self.leads.get(previous as usize) {
            Some(lead) => lead.other,
            None if previous == FIRST => self.other_first,
            None => return None,
        };
        self.leads.get(other as usize).filter(|lead| lead.stands_at(text, at)).map(|_| other)
    }

    /// Begins an object. If shapes have changed, the layout is made anew from time to time.
    #[inline(always)]
    pub(super) fn begin(&mut self) {
        self.objects += 1;
        if self.stale && self.objects >= self.due {
            self.arrange();
        }
    }

    #[inline(never)]
    fn arrange(&mut self) {
        self.stale = false;
        self.pause = (self.pause * 2).clamp(1, MOST_PAUSE);
        self.due = self.objects + self.pause;
        let Known { leads, layout, .. } = self;
        for lead in leads.iter_mut().filter(|lead| lead.place != NOWHERE) {
            lead.count(layout.runs(lead.place));
            (lead.place, lead.counted) = (NOWHERE, 0);
        }
        layout.clear();
        // Leads without a shape could follow each other in a circle.
        let mut steps = 2 * leads.len();
        let starts: Vec<u32> =
            (0..leads.len() as u32).filter(|lead| leads[*lead as usize].bytes.starts_with(b"{")).collect();
        for start in [self.first].into_iter().chain(starts) {
            let (mut number, mut first) = (start, true);
            while let Some(lead) = leads.get_mut(number as usize)
                && lead.place == NOWHERE
                && steps > 0
            {
                steps -= 1;
                // What ends one member must begin the next.
                first |= !lead.bytes.starts_with(b",");
                let column = (lead.column != UNWANTED).then_some(lead.column);
                match &lead.shape {
                    Some(shape) => {
                        let part = Part { name: number, shape, lead: lead.length, column };
                        let Some(place) = layout.push(first, &part) else { break };
                        first = false;
                        lead.place = place;
                        if shape.ends {
                            break;
                        }
                    }
                    None => {
                        layout.end_chain();
                        first = true;
                    }
                }
                number = lead.next;
            }
            layout.end_chain();
        }
    }

    /// Learns from a member with this lead that has not its shape, after [`Lead::fails`]. The member starts at `start`,
    /// its value is at `value..end`.
    #[inline(never)]
    pub(super) fn missed(&mut self, lead: u32, text: &[u8], start: usize, value: usize, end: usize) {
        let Some(lead) = self.leads.get_mut(lead as usize) else { return };
        if lead.place != NOWHERE {
            // The chain was compared this time, too.
            let runs = self.layout.runs(lead.place);
            lead.count(runs.saturating_sub(1));
            lead.counted = runs;
            lead.patience = lead.patience.saturating_sub(1);
        }
        if lead.patience == 0 {
            lead.learn_shape(text, start, value, end);
            lead.place = NOWHERE;
            self.stale = true;
        }
    }
}

impl Lead {
    fn new(bytes: &[u8], column: u32) -> Self {
        let mut words = [0; WORDS];
        let mut masks = [0; WORDS];
        for (i, byte) in bytes.iter().enumerate().take(WORDS * 8) {
            words[i / 8] |= (*byte as u64) << (i % 8 * 8);
            masks[i / 8] |= 0xff << (i % 8 * 8);
        }
        Lead {
            words,
            masks,
            bytes: bytes.into(),
            length: bytes.len() as u32,
            column,
            next: UNKNOWN,
            other: UNKNOWN,
            shape: None,
            place: NOWHERE,
            hits: 0,
            counted: 0,
            patience: 1,
        }
    }

    /// Counts a member of its shape that was compared alone.
    #[inline(always)]
    pub(super) fn hit(&mut self) {
        self.patience += (self.patience < MOST_PATIENCE) as u32;
        self.hits += 1;
    }

    /// Counts a member that has not its shape. Returns whether [`Known::missed`] must be called.
    #[inline(always)]
    pub(super) fn fails(&mut self) -> bool {
        if self.place != NOWHERE {
            return true;
        }
        self.patience = self.patience.saturating_sub(1);
        self.patience == 0
    }

    /// Counts the members of its shape that were compared together with others; its chain has run this often.
    fn count(&mut self, runs: u64) {
        let hits = runs.saturating_sub(self.counted);
        self.hits += hits;
        self.patience = (self.patience as u64).saturating_add(hits).min(MOST_PATIENCE.into()) as u32;
        self.counted = runs;
    }

    /// Remembers the shape of a member; or none for a while, if the one before has hardly occurred again.
    #[inline(never)]
    fn learn_shape(&mut self, text: &[u8], start: usize, value: usize, end: usize) {
        let has_failed = self.shape.is_some() && self.hits < FEW_HITS;
        let is_plain = value - start == self.length as usize;
        self.shape = match is_plain && !has_failed {
            true => Shape::of(&text[start..value], &text[value..end], byte(text, end)),
            false => None,
        };
        self.hits = 0;
        self.patience = if self.shape.is_some() { PATIENCE } else { REST };
    }

    /// Whether the lead stands at this position.
    #[inline(always)]
    pub(super) fn stands_at(&self, text: &[u8], at: usize) -> bool {
        let Some(rest) = text.get(at..) else { return false };
        match rest.first_chunk::<{ WORDS * 8 }>() {
            Some(chunk) if self.length as usize <= WORDS * 8 => {
                let mut difference = 0;
                for i in 0..WORDS {
                    let mut word = [0; 8];
                    word.copy_from_slice(&chunk[i * 8..i * 8 + 8]);
                    difference |= (u64::from_le_bytes(word) ^ self.words[i]) & self.masks[i];
                }
                difference == 0
            }
            _ => rest.starts_with(&self.bytes),
        }
    }
}
