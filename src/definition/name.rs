//! How long the names of what users define may be.

/// The longest name of a new rule, stream, table, view, connection or conf key, in bytes.
pub const LONGEST_NAME: usize = 255;

/// A name above [`LONGEST_NAME`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name {shown}… has {length} bytes, at most {} are possible: choose a shorter one", LONGEST_NAME)]
pub struct LongName {
    /// its beginning
    shown: String,
    length: usize,
}

impl LongName {
    /// Checks the length of a new name.
    ///
    /// # Errors
    /// [`LongName`]
    pub fn check(name: &str) -> Result<(), LongName> {
        if name.len() <= LONGEST_NAME {
            return Ok(());
        }
        Err(LongName { shown: name.chars().take(32).collect(), length: name.len() })
    }
}
