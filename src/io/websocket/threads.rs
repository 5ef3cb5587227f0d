//! Data threads: placing clients on them, and passing work between them.
//!
//! Waking another thread costs a system call. So work for another thread goes into the mail of that thread, which is
//! read all at once: one wake-up for everything added since the last reading. A single data thread needs no mail and no
//! wake-ups.
//!
//! This module knows neither clients nor messages.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::sync::locked;

/// Work for another data thread. It must not block.
pub(super) trait Errand: Send + Sync {
    fn run(self: Arc<Self>);
}

/// All data threads. When dropped, it ends the tasks that read their mail.
pub(super) struct SocketThreads {
    all: Box<[Arc<SocketThread>]>,
    /// number of clients of each thread, over all endpoints
    clients: Spread,
    /// where the next search for a thread starts, so that equal threads take turns
    turn: Mutex<usize>,
}

/// One data thread.
pub(super) struct SocketThread {
    /// runs futures on it
    pub handle: Handle,
    /// `None` if there is only one data thread
    mail: Option<Arc<Mail>>,
}

/// The number of clients of each data thread. Clones share it.
#[derive(Clone)]
pub(super) struct Spread(Arc<[AtomicUsize]>);

/// The data thread of a client, which is counted there until this is dropped.
pub(super) struct Placement {
    /// number of the thread
    pub thread: usize,
    counted: [Spread; 2],
}

impl SocketThreads {
    /// The threads of these handles.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(handles: Vec<Handle>) -> SocketThreads {
        assert!(!handles.is_empty(), "sockets need a data thread");
        let clients = Spread::over(handles.len());
        let alone = handles.len() == 1;
        let thread = |handle: Handle| {
            let mail = (!alone).then(|| {
                let mail = Arc::new(Mail::new());
                handle.spawn(read(mail.clone()));
                mail
            });
            Arc::new(SocketThread { handle, mail })
        };
        SocketThreads { all: handles.into_iter().map(thread).collect(), clients, turn: Mutex::new(0) }
    }

    /// The number of threads.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Thread `index`, modulo their number.
    pub fn at(&self, index: usize) -> &Arc<SocketThread> {
        &self.all[index % self.all.len()]
    }

    /// All threads in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<SocketThread>> {
        self.all.iter()
    }

    /// Counts for the clients of one endpoint.
    pub fn spread(&self) -> Spread {
        Spread::over(self.all.len())
    }

    /// Places a client on the thread of `among` with the fewest clients of this endpoint; if equal, on the one with the
    /// fewest clients in all; if still equal, on the next in turn.
    pub fn place(&self, among: &Spread) -> Placement {
        let mut turn = locked(&self.turn);
        let load = |thread: &usize| (among.on(*thread), self.clients.on(*thread));
        let in_turn = (0..self.all.len()).map(|step| (*turn + step) % self.all.len());
        let thread = in_turn.min_by_key(load).unwrap_or_default();
        *turn = thread + 1;
        // Counted under the lock, so that two clients at the same time go to different threads.
        self.place_at(thread, among)
    }

    /// Places a client on this thread.
    pub fn place_at(&self, thread: usize, among: &Spread) -> Placement {
        let counted = [among.clone(), self.clients.clone()];
        counted.iter().for_each(|spread| _ = spread.0[thread].fetch_add(1, Ordering::Relaxed));
        Placement { thread, counted }
    }
}

impl Drop for SocketThreads {
    fn drop(&mut self) {
        self.all.iter().filter_map(|thread| thread.mail.as_ref()).for_each(|mail| mail.close());
    }
}

impl SocketThread {
    /// Whether work for this thread must be sent: the caller runs on another data thread. A caller outside of data
    /// threads does the work itself.
    pub fn is_elsewhere(&self) -> bool {
        self.mail.as_ref().is_some_and(|mail| mail.is_of_another())
    }

    /// Lets the thread do some work soon; immediately, if it has no mail.
    pub fn send(&self, errand: Arc<dyn Errand>) {
        match &self.mail {
            Some(mail) => mail.put(errand),
            None => errand.run(),
        }
    }

    /// A waker that uses the mail, for tasks of this thread of which many are woken at a time.
    pub fn waker(self: &Arc<Self>, task: &Waker) -> Waker {
        match self.mail {
            Some(_) => Waker::from(Arc::new(MailedWaker { thread: self.clone(), task: task.clone() })),
            None => task.clone(),
        }
    }
}

struct MailedWaker {
    thread: Arc<SocketThread>,
    task: Waker,
}

impl Wake for MailedWaker {
    fn wake(self: Arc<Self>) {
        match &self.thread.mail {
            Some(mail) if !mail.is_of_this() => mail.put(self.clone()),
            _ => self.task.wake_by_ref(),
        }
    }
}

impl Errand for MailedWaker {
    fn run(self: Arc<Self>) {
        self.task.wake_by_ref();
    }
}

impl Spread {
    fn over(threads: usize) -> Spread {
        Spread((0..threads).map(|_| AtomicUsize::new(0)).collect())
    }

    /// The number of clients of this thread.
    pub fn on(&self, thread: usize) -> usize {
        self.0[thread].load(Ordering::Relaxed)
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        self.counted.iter().for_each(|spread| _ = spread.0[self.thread].fetch_sub(1, Ordering::Relaxed));
    }
}

thread_local! {
    /// The number of the mail that this thread reads; 0 if it is not a data thread.
    static READS: Cell<usize> = const { Cell::new(0) };
}

/// Work for a thread. Its size is bounded by the number of senders: each adds an errand only once until it has run.
struct Mail {
    /// unique in the process
    number: usize,
    errands: Mutex<Errands>,
    bell: Notify,
}

#[derive(Default)]
struct Errands {
    waiting: Vec<Arc<dyn Errand>>,
    closed: bool,
}

impl Mail {
    fn new() -> Mail {
        static NUMBERS: AtomicUsize = AtomicUsize::new(1);
        Mail { number: NUMBERS.fetch_add(1, Ordering::Relaxed), errands: Mutex::default(), bell: Notify::new() }
    }

    fn is_of_this(&self) -> bool {
        READS.get() == self.number
    }

    fn is_of_another(&self) -> bool {
        let read = READS.get();
        read != 0 && read != self.number
    }

    fn put(&self, errand: Arc<dyn Errand>) {
        let mut errands = locked(&self.errands);
        let first = errands.waiting.is_empty();
        errands.waiting.push(errand);
        drop(errands);
        if first {
            self.bell.notify_one();
        }
    }

    fn close(&self) {
        locked(&self.errands).closed = true;
        self.bell.notify_one();
    }

    /// Waiting work; `None`: closed.
    fn take(&self) -> Option<Vec<Arc<dyn Errand>>> {
        let mut errands = locked(&self.errands);
        if errands.closed && errands.waiting.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut errands.waiting))
    }
}

/// Does the work in the mail, on its thread.
async fn read(mail: Arc<Mail>) {
    READS.set(mail.number);
    while let Some(errands) = mail.take() {
        if errands.is_empty() {
            mail.bell.notified().await;
            continue;
        }
        errands.into_iter().for_each(Errand::run);
        // Let the worker and the sockets of this thread run.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A thread with a runtime, until the sender is dropped.
    fn data_thread() -> (Handle, tokio::sync::oneshot::Sender<()>) {
        let (give, take) = mpsc::channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            give.send(runtime.handle().clone()).expect("somebody waits");
            let _ = runtime.block_on(ended);
        });
        (take.recv().expect("the thread runs"), end)
    }

    struct Note(mpsc::Sender<usize>);

    impl Errand for Note {
        fn run(self: Arc<Self>) {
            self.0.send(READS.get()).expect("somebody waits");
        }
    }

    #[test]
    fn clients_go_where_the_fewest_are() {
        let (handles, _ends): (Vec<_>, Vec<_>) = (0..3).map(|_| data_thread()).unzip();
        let threads = SocketThreads::new(handles);
        let (crowded, other) = (threads.spread(), threads.spread());
        let mut placed: Vec<Placement> = (0..6).map(|_| threads.place(&crowded)).collect();
        assert_eq!([crowded.on(0), crowded.on(1), crowded.on(2)], [2, 2, 2]);
        placed.retain(|placement| placement.thread != 1);
        assert_eq!(threads.place(&other).thread, 1, "it has the fewest clients in all");
        let placed_at_zero = threads.place_at(0, &other);
        assert_ne!(threads.place(&other).thread, placed_at_zero.thread, "each endpoint is spread for itself");
    }

    #[test]
    fn errands_run_on_the_thread_that_they_are_sent_to() {
        let (handles, _ends): (Vec<_>, Vec<_>) = (0..2).map(|_| data_thread()).unzip();
        let threads = Arc::new(SocketThreads::new(handles));
        let (note, noted) = mpsc::channel();
        let mut numbers = Vec::new();
        for thread in threads.iter() {
            thread.send(Arc::new(Note(note.clone())));
            numbers.push(noted.recv().expect("the errand runs"));
        }
        assert!(numbers[0] != numbers[1] && !numbers.contains(&0));
        assert!(!threads.at(0).is_elsewhere(), "this thread is not a data thread");
        let (asked, answered) = mpsc::channel();
        let all = threads.clone();
        threads.at(1).handle.spawn(async move {
            asked.send([all.at(0).is_elsewhere(), all.at(1).is_elsewhere()]).expect("somebody waits");
        });
        assert_eq!(answered.recv().expect("the task runs"), [true, false]);
    }

    #[test]
    fn a_single_thread_has_no_mail() {
        let (handle, _end) = data_thread();
        let threads = SocketThreads::new(vec![handle]);
        let (note, noted) = mpsc::channel();
        threads.at(7).send(Arc::new(Note(note)));
        assert_eq!(noted.try_recv(), Ok(0), "it ran at once, on the thread of the caller");
    }
}
