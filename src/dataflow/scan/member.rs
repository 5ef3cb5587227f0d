//! Entries of a stream's index: its rules, oldest first.

use smallvec::SmallVec;

/// A rule on the stream, ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Larger for younger rules.
    pub age: u32,
    /// The index in the scan's table.
    pub place: u32,
}

/// Members in order of age.
#[derive(Debug, Default)]
pub struct Members(SmallVec<[Member; 2]>);

impl Members {
    /// Adds a new member.
    pub fn insert(&mut self, member: Member) {
        // Usually it is the youngest one.
        let at = self.0.partition_point(|other| *other < member);
        self.0.insert(at, member);
    }

    /// Removes a member.
    pub fn remove(&mut self, member: Member) {
        if let Ok(at) = self.0.binary_search(&member) {
            self.0.remove(at);
        }
    }

    pub fn all(&self) -> &[Member] {
        &self.0
    }
}
