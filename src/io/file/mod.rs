//! Files: a source reads one completely when it opens, a sink writes results to them.
//!
//! Both accept only files in allowed folders ([`crate::io::reach::FileRoots`]): statements and rules come over the
//! network, and must neither show nor change anything else on the machine. This module does not know what is in the
//! messages.

mod mend;
mod sink;
mod source;
mod target;
mod writer;

pub use self::sink::{FileLink, FileSink, FileWriters};
pub use self::source::{FILE_TYPE, FileError, FileReader, FileSource};

use crate::property::{self, Entry};

/// Every property of both ends with its documentation.
pub fn entries() -> Vec<Entry> {
    let mut entries = source::entries();
    entries.extend(sink::entries());
    entries
}

/// The chapter of documentation.
pub fn reference() -> String {
    format!(
        "## file\n\n\
         A source reads a file once, when the stream or table opens. DATASOURCE is its name. Files are read below the data \
         folder and `basic.fileRoots`, up to 256 MiB.\n\n\
         A sink writes results to files below the same folders; see [files](sinks.md#files). `hasHeader`, `delimiter` and \
         `compression`, which are common properties of sinks, are those of the file.\n\n{}",
        property::reference::table(&entries(), true)
    )
}
