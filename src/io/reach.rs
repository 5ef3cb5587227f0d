//! Limits what properties from the network may use on this machine: files in allowed folders, permitted environment
//! variables, and addresses ([`Egress`]).
//!
//! Users of the REST API need not be users of this machine: a property such as `rootCaPath` must not reveal which files
//! exist, and `${NAME}` must not send the environment to a peer. Properties set by the operator (the configuration's
//! files, a rule file of `plutino run`) are not checked. This module does not know who set a property.
//!
//! Files are read on separate threads, few at a time and with a deadline ([`within`]): a file system can hang, and the
//! control thread must not hang with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::egress::{Egress, EgressError};
use crate::sync::locked;

/// The most files read at a time.
const PLACES: usize = 8;

/// How long a request waits for a file.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// How long the control thread itself waits for a file of certificates.
const SHORT_DEADLINE: Duration = Duration::from_secs(1);

/// How long it waits while another file hangs: one file system must not hold it up file by file.
const MOMENT: Duration = Duration::from_millis(50);

/// The properties that contain file names.
const FILE_PROPERTIES: &[&str] = &["certificationPath", "privateKeyPath", "rootCaPath", "file"];

/// Prefixes of names in the data folder that belong to the service.
const OWN: &[&str] = &["plutino.redb", "reserve", "uploads", "cache"];

/// Properties in which `${` is only text.
const TEMPLATES: &[&str] = &["dataTemplate"];

/// The variables that are allowed by default.
pub const ALLOWED_VARIABLES: &str = "PLUTINO_*";

/// A property that names something forbidden.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReachError {
    /// `${NAME}` of a variable that is not allowed
    #[error("property {property}: the variable {name} is not allowed here: add it to basic.envAllow")]
    Variable { property: String, name: String },
    #[error("property {property}: {file} is outside of the data folder: add its folder to basic.fileRoots")]
    Outside {
        property: String,
        /// the file as written
        file: String,
    },
    /// a forbidden address
    #[error("property {property}: {error}")]
    Egress { property: String, error: EgressError },
}

impl ReachError {
    /// The property at fault.
    pub fn property(&self) -> &str {
        let (ReachError::Variable { property, .. }
        | ReachError::Outside { property, .. }
        | ReachError::Egress { property, .. }) = self;
        property
    }
}

/// The allowed environment variables; a trailing `*` in a name matches any ending.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Variables(Arc<[String]>);

impl Variables {
    /// The first forbidden variable in a text.
    pub fn refused<'t>(&self, text: &'t str) -> Option<&'t str> {
        variables(text).find(|name| !self.allows(name))
    }

    fn allows(&self, name: &str) -> bool {
        self.0.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == allowed,
        })
    }
}

/// Everything that properties may use.
#[derive(Clone, Debug)]
pub struct Reach {
    pub files: FileRoots,
    pub variables: Variables,
    egress: Egress,
}

impl Reach {
    /// Allows files in these folders, and variables with these names; a trailing `*` matches any ending.
    pub fn new(files: FileRoots, variables: &[String]) -> Reach {
        Reach { files, variables: Variables(variables.into()), egress: Egress::default() }
    }

    /// Sets the addresses that sinks may send requests to.
    #[must_use]
    pub fn with_egress(self, egress: Egress) -> Reach {
        Reach { egress, ..self }
    }

    /// Checks the destination of a sink's requests, given by this property.
    ///
    /// # Errors
    /// [`ReachError::Egress`]
    pub fn check_egress(
        &self,
        property: &str,
        check: impl FnOnce(&Egress) -> Result<(), EgressError>,
    ) -> Result<(), ReachError> {
        check(&self.egress).map_err(|error| ReachError::Egress { property: property.to_owned(), error })
    }

    /// Checks the text of one property.
    ///
    /// # Errors
    /// [`ReachError::Variable`]
    pub fn check_text(&self, property: &str, text: &str) -> Result<(), ReachError> {
        match self.variables.refused(text) {
            None => Ok(()),
            Some(name) => Err(ReachError::Variable { property: property.to_owned(), name: name.to_owned() }),
        }
    }

    /// Checks properties from the network.
    ///
    /// # Errors
    /// [`ReachError`] names the property.
    pub fn check(&self, props: &Map<String, Value>) -> Result<(), ReachError> {
        props.iter().try_for_each(|(property, value)| {
            self.check_text(property, property)?;
            self.check_value(property, value)
        })
    }

    fn check_value(&self, property: &str, value: &Value) -> Result<(), ReachError> {
        match value {
            Value::String(_) if TEMPLATES.iter().any(|known| known.eq_ignore_ascii_case(property)) => Ok(()),
            Value::String(text) => {
                self.check_text(property, text)?;
                let is_file = FILE_PROPERTIES.iter().any(|known| known.eq_ignore_ascii_case(property));
                // The content of a variable is unknown here, so it cannot be checked as a path.
                let is_held = || variables(text).next().is_none() && self.files.holds(Path::new(text));
                if is_file && !text.is_empty() && !is_held() {
                    return Err(ReachError::Outside { property: property.to_owned(), file: text.clone() });
                }
                Ok(())
            }
            Value::Array(items) => items.iter().try_for_each(|item| self.check_value(property, item)),
            Value::Object(members) => self.check(members),
            _ => Ok(()),
        }
    }
}

/// The names in `${NAME}` and `${NAME:-default}`. A name after a further `$` is included: refusing too many does no
/// harm.
fn variables(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("${").filter_map(|(start, _)| {
        let rest = &text[start + 2..];
        let name = &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())];
        (!name.is_empty() && rest.len() > name.len()).then_some(name)
    })
}

/// Folders with files that may be read.
#[derive(Clone, Debug)]
pub struct FileRoots {
    data: PathBuf,
    others: Arc<[PathBuf]>,
}

impl FileRoots {
    /// Only the data folder.
    pub fn new(data: PathBuf) -> FileRoots {
        FileRoots { data, others: Arc::default() }
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Adds folders.
    #[must_use]
    pub fn with(self, others: &[PathBuf]) -> FileRoots {
        FileRoots { others: others.into(), ..self }
    }

    /// Whether this path leads into one of the folders, following links; the file need not exist.
    pub fn holds(&self, path: &Path) -> bool {
        let (roots, path) = (self.clone(), path.to_owned());
        within_now(move || roots.locate(&path)).is_ok_and(|located| located.is_ok())
    }

    /// Reads a regular file of up to `limit` bytes. A relative path starts in the data folder, or, if it includes the
    /// name of the data folder as eKuiper's paths do, in the working directory.
    ///
    /// # Errors
    /// Those of the system; [`io::ErrorKind::PermissionDenied`] for a file outside the folders,
    /// [`io::ErrorKind::FileTooLarge`].
    pub fn read_below_data(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let inner = path.strip_prefix(&self.data).unwrap_or(path);
        self.read(&self.data.join(inner), limit)
    }

    /// Locates a file for results, which need not exist. A relative path starts in the data folder, as in
    /// [`FileRoots::read_below_data`].
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] for a file outside the folders, and for files of the service itself.
    pub fn locate_for_results(&self, path: &Path) -> io::Result<PathBuf> {
        let inner = path.strip_prefix(&self.data).unwrap_or(path);
        let located = self.locate(&self.data.join(inner))?;
        let own = self.data.canonicalize().ok().is_some_and(|data| {
            let first =
                located.strip_prefix(data).ok().and_then(|inner| inner.components().next().map(Component::as_os_str));
            first.is_some_and(|first| OWN.iter().any(|own| first.to_string_lossy().starts_with(own)))
        });
        if own { Err(io::ErrorKind::PermissionDenied.into()) } else { Ok(located) }
    }

    /// Creates the data folder, which only its owner can access, if it does not exist and has the file for results at
    /// `path`, which was located.
    ///
    /// # Errors
    /// Those of the system.
    pub fn make_data_folder_of(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        if path.starts_with(real(&self.data)?) {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.data)?;
        }
        Ok(())
    }

    /// Whether results may go to the file at `path`; see [`FileRoots::locate_for_results`].
    pub fn holds_below_data(&self, path: &Path) -> bool {
        let (roots, path) = (self.clone(), path.to_owned());
        within_now(move || roots.locate_for_results(&path)).is_ok_and(|located| located.is_ok())
    }

    /// Locates an existing file, for [`FileRoots::read_below_data`].
    ///
    /// # Errors
    /// Those of the system; [`io::ErrorKind::PermissionDenied`] for a file outside the folders.
    pub fn find_below_data(&self, path: &Path) -> io::Result<PathBuf> {
        let inner = path.strip_prefix(&self.data).unwrap_or(path);
        let found = self.locate(&self.data.join(inner))?;
        std::fs::metadata(&found)?;
        Ok(found)
    }

    /// The same; a relative path starts in the working directory.
    ///
    /// # Errors
    /// As [`FileRoots::read_below_data`].
    pub fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        read_regular(&self.locate(path)?, limit)
    }

    /// Resolves links in a path.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] for a path outside the folders, whether or not it exists.
    fn locate(&self, path: &Path) -> io::Result<PathBuf> {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let roots: Vec<PathBuf> = std::iter::once(&self.data)
            .chain(self.others.iter())
            .flat_map(|root| [std::path::absolute(root).ok(), root.canonicalize().ok()])
            .flatten()
            .collect();
        let held = |path: &Path| roots.iter().any(|root| path.starts_with(root));
        // The text is checked first, so that nothing outside is accessed: it could hang, or reveal whether a file
        // exists.
        if !held(&without_dots(path)?) {
            return Err(denied());
        }
        let real = real(path)?;
        if held(&real) { Ok(real) } else { Err(denied()) }
    }
}

/// Whether a file was refused because it is outside the folders.
pub fn is_outside(error: &io::Error) -> bool {
    // Errors of the system have a number.
    error.kind() == io::ErrorKind::PermissionDenied && error.raw_os_error().is_none()
}

/// The path made absolute, without `.` and `..`; links are not resolved.
fn without_dots(path: &Path) -> io::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for step in std::path::absolute(path)?.components() {
        match step {
            Component::ParentDir => drop(plain.pop()),
            step => plain.push(step),
        }
    }
    Ok(plain)
}

/// The path without links, `.` and `..`; components that do not exist are kept as written.
fn real(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    let mut known = path.as_path();
    loop {
        match known.canonicalize() {
            Ok(real) => {
                let rest = path.strip_prefix(known).unwrap_or(Path::new(""));
                // For a component that does not exist, the target of `..` is unknown.
                let plain = rest.components().all(|step| matches!(step, Component::Normal(_)));
                return match plain {
                    true if rest.as_os_str().is_empty() => Ok(real),
                    true => Ok(real.join(rest)),
                    false => Err(io::ErrorKind::NotFound.into()),
                };
            }
            Err(error) => known = known.parent().ok_or(error)?,
        }
    }
}

/// Reads a regular file of up to `limit` bytes. Opening never waits, because a pipe or device may block forever.
///
/// # Errors
/// Those of the system; [`io::ErrorKind::FileTooLarge`].
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt;
    let not_regular = || io::Error::other("it is not a regular file");
    // Opening a device may already have an effect.
    if !std::fs::metadata(path)?.is_file() {
        return Err(not_regular());
    }
    let file: File = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(not_regular());
    }
    let mut bytes = Vec::new();
    // Limited while reading, because a file may grow.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// The jobs that read files, few at a time.
struct Readers {
    places: Arc<Semaphore>,
    /// jobs whose callers have given up waiting
    hanging: Arc<AtomicUsize>,
}

/// A job, as the one who waits for it sees it.
#[derive(Clone)]
struct Watched {
    state: Arc<Mutex<JobState>>,
    hanging: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum JobState {
    /// it has no place yet
    #[default]
    Queued,
    /// it runs, and its caller waits
    Awaited,
    Hanging,
    Done,
}

/// Runs a job that may block on the disk on a separate thread. A job that hangs keeps its place, but not the caller.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] after [`DEADLINE`]; the system's error if no thread can be started.
pub async fn within<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    readers().within(job).await
}

/// The same for a caller that cannot await, such as the one who checks properties: it waits for a second at most, and
/// only for a moment while another job hangs.
///
/// # Errors
/// As [`within`].
pub fn within_now<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    readers().within_now(job)
}

/// The readers of this process.
fn readers() -> &'static Readers {
    static READERS: LazyLock<Readers> = LazyLock::new(Readers::new);
    &READERS
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the disk did not answer in time: the file system may hang")
}

impl Readers {
    fn new() -> Readers {
        Readers { places: Arc::new(Semaphore::new(PLACES)), hanging: Arc::default() }
    }

    async fn within<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let watched = self.watched();
        let done = async {
            let place = self.places.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (answer, answered) = oneshot::channel();
            start(place, watched.clone(), move || drop(answer.send(job())))?;
            answered.await.map_err(|_| io::Error::other("reading ended early"))
        };
        tokio::time::timeout(DEADLINE, done).await.unwrap_or_else(|_| {
            watched.hangs();
            Err(late())
        })
    }

    fn within_now<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let patience = if self.hanging.load(Ordering::Acquire) == 0 { SHORT_DEADLINE } else { MOMENT };
        let until = Instant::now() + patience;
        let place = loop {
            match self.places.clone().try_acquire_owned() {
                Ok(place) => break place,
                Err(_) if Instant::now() >= until => return Err(late()),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let (answer, answered) = mpsc::sync_channel(1);
        let watched = self.watched();
        start(place, watched.clone(), move || drop(answer.send(job())))?;
        answered.recv_timeout(until.saturating_duration_since(Instant::now())).map_err(|_| {
            watched.hangs();
            late()
        })
    }

    fn watched(&self) -> Watched {
        Watched { state: Arc::default(), hanging: self.hanging.clone() }
    }
}

impl Watched {
    /// Counts a job whose caller has given up waiting.
    fn hangs(&self) {
        let mut state = locked(&self.state);
        if *state == JobState::Awaited {
            *state = JobState::Hanging;
            self.hanging.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn ends(&self) {
        if std::mem::replace(&mut *locked(&self.state), JobState::Done) == JobState::Hanging {
            self.hanging.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn start(place: OwnedSemaphorePermit, watched: Watched, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
    /// Ends a job, also one that panics.
    struct Ending(Watched, #[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit);

    impl Drop for Ending {
        fn drop(&mut self) {
            self.0.ends();
        }
    }

    *locked(&watched.state) = JobState::Awaited;
    let ending = Ending(watched, place);
    let run = move || {
        let _ending = ending;
        job();
    };
    std::thread::Builder::new().name("file".to_owned()).spawn(run).map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    /// A folder with files inside and outside `data`.
    fn folder() -> TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("data/sub")).expect("a folder can be made");
        std::fs::create_dir_all(path("certs")).expect("a folder can be made");
        std::fs::write(path("secret"), "s").expect("a file can be written");
        std::fs::write(path("data/a"), "a").expect("a file can be written");
        folder
    }

    #[test]
    fn files_outside_are_not_reached() {
        let folder = folder();
        std::os::unix::fs::symlink(folder.path().join("secret"), folder.path().join("data/link"))
            .expect("a link can be made");
        let roots = FileRoots::new(folder.path().join("data")).with(&[folder.path().join("certs")]);
        for (path, held) in [
            ("data/a", true),
            ("data/sub/none", true),
            ("certs/ca.pem", true),
            ("data", true),
            ("secret", false),
            ("data/link", false),
            ("data/../secret", false),
            ("data/none/../../secret", false),
            ("database", false),
        ] {
            assert_eq!(roots.holds(&folder.path().join(path)), held, "{path}");
        }
        let denied = |path: &str| roots.read(&folder.path().join(path), 10).unwrap_err().kind();
        assert_eq!(denied("secret"), io::ErrorKind::PermissionDenied);
        assert_eq!(denied("no such file"), io::ErrorKind::PermissionDenied);
        assert_eq!(denied("data/none"), io::ErrorKind::NotFound);
        assert_eq!(roots.read_below_data(Path::new("a"), 1).expect("it is there"), b"a");
        assert_eq!(roots.read_below_data(Path::new("a"), 0).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn only_regular_files_are_read() {
        for path in ["/dev/zero", "/dev/tty", "/"] {
            assert!(read_regular(Path::new(path), 10).is_err(), "{path}");
        }
    }

    #[test]
    fn variables_are_allowed_by_name() {
        let roots = FileRoots::new("/nosuch".into());
        let reach = Reach::new(roots, &["PLUTINO_*".to_owned(), "TOKEN".to_owned()]);
        let check =
            |props: Value| reach.check(props.as_object().expect("an object")).map_err(|error| error.to_string());
        for allowed in
            [json!({"headers": {"a": "${TOKEN} ${PLUTINO_X}"}}), json!({"onOpen": "costs $5 {x} ${ ${}"}), json!({})]
        {
            assert_eq!(check(allowed.clone()), Ok(()), "{allowed}");
        }
        for refused in [
            json!({"headers": {"a": ["${HOME}"]}}),
            json!({"headers": {"${HOME}": "a"}}),
            json!({"onOpen": [{"op": "${TOKEN2}"}]}),
            json!({"path": "/${HOME:-x}"}),
            json!({"path": "/$${HOME}"}),
            json!({"rootCaPath": "${PLUTINO_X}"}),
            json!({"ROOTCAPATH": "/etc/passwd"}),
        ] {
            assert!(check(refused.clone()).is_err(), "{refused}");
        }
    }

    #[tokio::test]
    async fn what_hangs_keeps_nobody() {
        let readers = Readers::new();
        let (release, hang) = mpsc::channel::<()>();
        let begun = Instant::now();
        assert!(readers.within_now(move || hang.recv().is_ok()).is_err());
        assert!(begun.elapsed() < DEADLINE);
        let hanging = || readers.hanging.load(Ordering::Acquire);
        assert_eq!(hanging(), 1, "the next one waits for a moment only");
        assert_eq!(readers.within(|| 5).await.expect("others are read"), 5);
        drop(release);
        while hanging() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not hang any more");
            tokio::task::yield_now().await;
        }
    }
}
