//! Distributes a sink's batches to its clients on all data threads.
//!
//! A batch is encoded once and passed on by reference. The lanes of the clients on one data thread form a branch. The
//! sending thread puts a batch into the lanes of its own branch; every other branch with clients gets it into its
//! inbox, and its thread is asked once to distribute the inbox. So another thread costs the sender one lock and one
//! wake-up, however many clients it has, and a thread without clients costs nothing.
//!
//! An inbox is bounded ([`INBOX_BATCHES`], [`INBOX_BYTES`]). If it is full, the sender distributes it itself, so
//! nothing is lost and the order stays. A full lane follows the sink's policy as always.
//!
//! A branch gains and loses clients only while its inbox is empty: it is distributed before the change. So a client
//! gets everything that was sent while it was connected, and counts are the same as on a single thread.
//!
//! When a rule leaves a sink, the rule's next version may send to another sink with the same clients. What waits in the
//! first one then goes first ([`SinkQueue::go_first`]), so that each client gets the rule's results in their order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use foldhash::fast::RandomState;
use indexmap::IndexMap;

use super::client_queue::{ClientQueue, Peer, PeerSink};
use super::config::{Role, Settings, SlowClient};
use super::lane::Lane;
use super::tally::{Loss, Tally};
use super::threads::{Errand, SocketThread, SocketThreads};
use crate::format::address::Address;
use crate::io::queue::{MessageBatch, Outlet, Signal};
use crate::sync::locked;
use crate::value::Text;

/// The most batches in an inbox.
const INBOX_BATCHES: usize = 64;

/// An inbox with this many bytes takes no further batch.
const INBOX_BYTES: usize = 1024 * 1024;

/// One sink: its clients' lanes, its policy and its counts.
pub(super) struct SinkQueue {
    /// what it counts
    pub tally: Arc<Tally>,
    /// one for each data thread
    branches: Box<[Arc<Branch>]>,
    /// whether its clients may be connected to any process of a cluster
    everywhere: bool,
}

/// The status of one client of a sink.
#[derive(Clone, Debug)]
pub struct ClientStatus {
    /// its address
    pub address: String,
    /// the time at which it connected (in a client role: at which the link was opened)
    pub since: SystemTime,
    /// the number of waiting messages
    pub queued: usize,
    /// the number of lost messages
    pub dropped: u64,
}

impl SinkQueue {
    /// A sink without clients; its clients will be on these threads.
    pub fn new(settings: &Settings, signal: Signal, threads: &SocketThreads) -> Arc<SinkQueue> {
        let tally = Arc::new(Tally::new(settings.client_queue, settings.slow_client, signal, threads.len()));
        let branch = |(number, thread): (usize, &Arc<SocketThread>)| {
            Arc::new(Branch::new(number, thread.clone(), tally.clone()))
        };
        let branches = threads.iter().enumerate().map(branch).collect();
        Arc::new(SinkQueue { tally, branches, everywhere: settings.role == Role::Server })
    }

    /// From now on its messages go before those of all sinks that are still in use. What other processes still send goes
    /// straight into the lanes.
    pub fn go_first(&self) {
        if self.tally.go_first() {
            self.branches.iter().for_each(|branch| branch.go_first());
        }
    }

    /// Each client with its waiting and lost messages.
    pub fn clients(&self) -> Vec<ClientStatus> {
        let of_branch = |branch: &Arc<Branch>| {
            let lanes = branch.settled();
            lanes.values().map(|lane| status(lane)).collect::<Vec<_>>()
        };
        self.branches.iter().flat_map(of_branch).collect()
    }

    /// Sends a batch to all clients, and returns their number.
    fn send_to_all(&self, batch: &Arc<MessageBatch>) -> usize {
        self.branches.iter().map(|branch| branch.send(batch)).sum()
    }

    fn branch(&self, peer: &Peer) -> &Arc<Branch> {
        &self.branches[peer.thread % self.branches.len()]
    }

    /// Sends each message to its client, and returns how many have no such client.
    fn send_addressed<'m>(&self, messages: impl Iterator<Item = (&'m Address, MessageBatch)>) -> usize {
        let mut unknown = 0;
        for (address, message) in messages {
            // The property `to`, a client's id, is the only part of the address.
            let client = address.first().map_or("", |id| id.as_str());
            let message = Arc::new(message);
            let found = self.branches.iter().any(|branch| {
                let lanes = branch.settled();
                let lane = lanes.get(client);
                if let Some(lane) = lane {
                    self.tally.add(branch.number, message.len());
                    lane.push(&message);
                }
                lane.is_some()
            });
            unknown += usize::from(!found);
        }
        unknown
    }
}

impl PeerSink for SinkQueue {
    fn join(self: Arc<Self>, peer: &Arc<Peer>) {
        let lane = ClientQueue::open(peer, &self.tally);
        self.branch(peer).change(|lanes| drop(lanes.insert(peer.id.clone(), lane)));
    }

    fn retire(&self, peer: &Arc<Peer>) {
        self.branch(peer).change(|lanes| drop(lanes.swap_remove(&peer.id)));
    }

    /// Waiting messages are lost and counted.
    fn end(&self) {
        self.tally.end();
        for branch in &self.branches {
            let mut left = Lanes::default();
            branch.change(|lanes| left = std::mem::take(lanes));
            left.values().for_each(|lane| lane.end());
        }
    }

    fn shorten(&self) -> Vec<(usize, Arc<Peer>)> {
        let of_branch = |branch: &Arc<Branch>| {
            let lanes = branch.settled();
            lanes.values().map(|lane| (lane.shorten(), lane.peer().clone())).collect::<Vec<_>>()
        };
        self.branches.iter().flat_map(of_branch).collect()
    }
}

fn status(lane: &ClientQueue) -> ClientStatus {
    let peer = lane.peer();
    ClientStatus { address: peer.address.clone(), since: peer.since, queued: lane.queued(), dropped: lane.dropped() }
}

impl Outlet for SinkQueue {
    fn send(&self, batch: &Arc<MessageBatch>) {
        if batch.is_empty() {
            return;
        }
        let heard = self.send_on(batch);
        self.finds_nobody(batch, batch.len() - heard);
    }

    fn ready(&self) -> bool {
        self.tally.is_ready()
    }

    fn may_wait(&self) -> bool {
        self.tally.policy == SlowClient::Block
    }

    fn is_everywhere(&self) -> bool {
        self.everywhere
    }

    fn send_on(&self, batch: &Arc<MessageBatch>) -> usize {
        match batch.by_address() {
            Some(addressed) => batch.len() - self.send_addressed(addressed),
            None if self.send_to_all(batch) == 0 => 0,
            None => batch.len(),
        }
    }

    fn finds_nobody(&self, batch: &MessageBatch, messages: usize) {
        let cause = if batch.by_address().is_some() { Loss::Unknown } else { self.tally.unless_ended(Loss::NoClient) };
        self.tally.lose(cause, messages);
    }
}

/// Lanes by the ids of their peers, because a message may be for only one of them.
type Lanes = IndexMap<Text, Arc<ClientQueue>, RandomState>;

/// The clients of a sink on one data thread.
struct Branch {
    /// the number of the thread
    number: usize,
    thread: Arc<SocketThread>,
    tally: Arc<Tally>,
    /// locked for one batch at a time; locked before `inbox` if both are needed
    lanes: Mutex<Lanes>,
    inbox: Mutex<Inbox>,
}

/// Batches from other threads.
#[derive(Default)]
struct Inbox {
    batches: VecDeque<Arc<MessageBatch>>,
    bytes: usize,
    /// the number of lanes
    clients: usize,
    /// whether the thread has been asked to distribute
    asked: bool,
    /// no batch may wait here any more
    closed: bool,
}

impl Branch {
    fn new(number: usize, thread: Arc<SocketThread>, tally: Arc<Tally>) -> Branch {
        Branch { number, thread, tally, lanes: Mutex::default(), inbox: Mutex::default() }
    }

    /// Sends a batch to all clients, and returns their number.
    fn send(self: &Arc<Self>, batch: &Arc<MessageBatch>) -> usize {
        if self.thread.is_elsewhere() {
            let mut inbox = locked(&self.inbox);
            if inbox.clients == 0 {
                return 0;
            }
            if inbox.has_room() {
                let clients = inbox.clients;
                self.tally.add(self.number, batch.len() * clients);
                inbox.bytes += batch.byte_len();
                inbox.batches.push_back(batch.clone());
                let ask = !std::mem::replace(&mut inbox.asked, true);
                drop(inbox);
                if ask {
                    self.thread.send(self.clone());
                }
                return clients;
            }
        }
        let lanes = self.settled();
        self.tally.add(self.number, batch.len() * lanes.len());
        lanes.values().for_each(|lane| lane.push(batch));
        lanes.len()
    }

    /// The lanes, after everything sent before has been put into them.
    fn settled(&self) -> MutexGuard<'_, Lanes> {
        let lanes = locked(&self.lanes);
        loop {
            // The inbox is unlocked before the lanes get the batch, so that other threads can continue to send.
            let batch = locked(&self.inbox).take();
            let Some(batch) = batch else { return lanes };
            lanes.values().for_each(|lane| lane.push(&batch));
        }
    }

    /// The lanes and the inbox, while nothing is on its way to the lanes.
    fn still(&self) -> (MutexGuard<'_, Lanes>, MutexGuard<'_, Inbox>) {
        loop {
            let (lanes, inbox) = (self.settled(), locked(&self.inbox));
            if inbox.batches.is_empty() {
                return (lanes, inbox);
            }
        }
    }

    /// Adds or removes clients.
    fn change(&self, change: impl FnOnce(&mut Lanes)) {
        let (mut lanes, mut inbox) = self.still();
        change(&mut lanes);
        inbox.clients = lanes.len();
    }

    /// The lanes have got a place before others.
    fn go_first(&self) {
        let (lanes, mut inbox) = self.still();
        inbox.closed = true;
        drop(inbox);
        lanes.values().for_each(|lane| lane.peer().move_up(&(lane.clone() as Arc<dyn Lane>)));
    }
}

impl Errand for Branch {
    fn run(self: Arc<Self>) {
        // Reset before the inbox is read, so that batches that arrive from now on ask again.
        locked(&self.inbox).asked = false;
        drop(self.settled());
    }
}

impl Inbox {
    fn has_room(&self) -> bool {
        !self.closed && self.batches.len() < INBOX_BATCHES && self.bytes < INBOX_BYTES
    }

    fn take(&mut self) -> Option<Arc<MessageBatch>> {
        let batch = self.batches.pop_front()?;
        self.bytes -= batch.byte_len();
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::runtime::Runtime;
    use tokio::sync::Notify;

    use super::super::config::QueueLimit;
    use super::*;

    const WIDE: QueueLimit = QueueLimit { messages: 1000, bytes: 1 << 20 };

    fn runtime() -> Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
    }

    fn batch(text: &str) -> Arc<MessageBatch> {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        Arc::new(MessageBatch::new(bytes, vec![text.len() as u32], true, None))
    }

    fn signal() -> Signal {
        Signal::new(0, crossbeam_channel::unbounded().0, Arc::new(Notify::new()))
    }

    /// The messages of a client, as its socket takes them.
    fn taken(peer: &Peer) -> Vec<String> {
        let mut messages = Vec::new();
        while let Some(mut flight) = peer.next() {
            let (batch, start) = flight.rest();
            let rest = batch.messages_from(start).map(|message| String::from_utf8_lossy(message).into_owned());
            messages.extend(rest);
            let count = batch.len() - start;
            flight.take(count);
            flight.arrive();
        }
        messages
    }

    /// A sink over two threads. The test runs as the first; the second does nothing until the test drives it.
    struct Setting {
        here: Runtime,
        there: Runtime,
        sink: Arc<SinkQueue>,
        settings: Settings,
        threads: SocketThreads,
    }

    impl Setting {
        fn new(limit: QueueLimit, policy: SlowClient) -> Setting {
            let (here, there) = (runtime(), runtime());
            let threads = SocketThreads::new(vec![here.handle().clone(), there.handle().clone()]);
            let settings = Settings { client_queue: limit, slow_client: policy, ..Settings::default() };
            let sink = SinkQueue::new(&settings, signal(), &threads);
            here.block_on(tokio::task::yield_now());
            Setting { here, there, sink, settings, threads }
        }

        /// Another sink with these clients.
        fn another(&self, clients: [&Arc<Peer>; 2]) -> Arc<SinkQueue> {
            let sink = SinkQueue::new(&self.settings, signal(), &self.threads);
            clients.into_iter().for_each(|client| sink.clone().join(client));
            sink
        }

        fn client(&self, thread: usize) -> Arc<Peer> {
            let peer = Peer::new(format!("client on {thread}"), Arc::default(), thread);
            self.sink.clone().join(&peer);
            peer
        }

        fn send(&self, texts: &[&str]) {
            self.send_to(&self.sink, texts);
        }

        fn send_to(&self, sink: &SinkQueue, texts: &[&str]) {
            self.here.block_on(async { texts.iter().for_each(|text| sink.send(&batch(text))) });
        }

        /// Lets the second thread process its mail.
        fn drive_the_other(&self) {
            let there = &self.there;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    there.block_on(async {
                        for _ in 0..4 {
                            tokio::task::yield_now().await;
                        }
                    })
                });
            });
        }

        fn on_its_way(&self) -> usize {
            locked(&self.sink.branches[1].inbox).batches.len()
        }
    }

    #[test]
    fn clients_of_other_threads_get_the_same_in_the_same_order() {
        let setting = Setting::new(WIDE, SlowClient::DropOldest);
        let (near, far) = (setting.client(0), setting.client(1));
        setting.send(&["a", "b"]);
        assert_eq!(taken(&near), ["a", "b"]);
        assert_eq!((taken(&far).len(), setting.sink.tally.queued()), (0, 2), "it waits for its thread, and counts");
        setting.drive_the_other();
        assert_eq!(taken(&far), ["a", "b"]);
        assert_eq!(setting.sink.tally.queued(), 0);
        setting.sink.retire(&far);
        setting.send(&["c"]);
        assert_eq!(setting.on_its_way(), 0, "a thread without clients is not asked");
        assert_eq!(taken(&near), ["c"]);
    }

    #[test]
    fn a_full_inbox_is_distributed_by_the_sender() {
        let setting = Setting::new(WIDE, SlowClient::DropOldest);
        let far = setting.client(1);
        let texts: Vec<String> = (0..=INBOX_BATCHES).map(|number| number.to_string()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        setting.send(&texts[..INBOX_BATCHES]);
        assert_eq!(setting.on_its_way(), INBOX_BATCHES);
        setting.send(&texts[INBOX_BATCHES..]);
        assert_eq!(setting.on_its_way(), 0);
        assert_eq!(taken(&far), texts);
    }

    #[test]
    fn who_comes_later_gets_nothing_of_what_is_on_its_way() {
        let setting = Setting::new(WIDE, SlowClient::DropOldest);
        let early = setting.client(1);
        setting.send(&["a"]);
        let late = setting.client(1);
        setting.send(&["b"]);
        setting.drive_the_other();
        assert_eq!((taken(&early), taken(&late)), (vec!["a".to_owned(), "b".to_owned()], vec!["b".to_owned()]));
    }

    #[test]
    fn what_waits_in_a_sink_that_its_rule_has_left_goes_first() {
        let setting = Setting::new(WIDE, SlowClient::DropOldest);
        let (near, far) = (setting.client(0), setting.client(1));
        let (other, next) = (setting.another([&near, &far]), setting.another([&near, &far]));
        setting.send_to(&other, &["other"]);
        setting.send(&["a", "b", "c"]);
        setting.sink.go_first();
        // On the way to the next sink's lanes before the first sink gets the last results of another process.
        setting.send_to(&next, &["e", "f"]);
        setting.send(&["d"]);
        setting.drive_the_other();
        for client in [near, far] {
            let came = taken(&client);
            assert_eq!(came[..4], ["a", "b", "c", "d"]);
            assert_eq!(came[4..].iter().filter(|text| *text != "other").collect::<Vec<_>>(), ["e", "f"]);
            assert_eq!(came.len(), 7);
        }
    }

    #[test]
    fn sinks_that_were_left_keep_their_order() {
        let setting = Setting::new(WIDE, SlowClient::DropOldest);
        let (near, far) = (setting.client(0), setting.client(1));
        let (second, third) = (setting.another([&near, &far]), setting.another([&near, &far]));
        setting.send(&["a"]);
        setting.send_to(&second, &["b", "c"]);
        setting.send_to(&third, &["d"]);
        setting.sink.go_first();
        second.go_first();
        for client in [near, far] {
            setting.drive_the_other();
            // The connection breaks while the first one is sent, and the next connection sends it again.
            drop(client.next());
            assert_eq!(taken(&client), ["a", "b", "c", "d"]);
        }
    }

    #[test]
    fn what_is_on_its_way_when_the_sink_ends_is_counted() {
        let setting = Setting::new(WIDE, SlowClient::DropOldest);
        let (_near, _far) = (setting.client(0), setting.client(1));
        setting.send(&["a", "b"]);
        setting.sink.end();
        assert_eq!(setting.sink.tally.lost(), [(crate::io::UNSENT, 4)]);
        assert_eq!(setting.sink.tally.queued(), 0);
        setting.send(&["c"]);
        assert_eq!(setting.sink.tally.lost(), [(crate::io::UNSENT, 5)]);
    }

    #[test]
    fn limits_hold_for_clients_of_other_threads() {
        let limit = QueueLimit { messages: 2, ..WIDE };
        let setting = Setting::new(limit, SlowClient::DropOldest);
        let far = setting.client(1);
        setting.send(&["a", "b", "c"]);
        setting.drive_the_other();
        assert_eq!(taken(&far), ["b", "c"]);
        assert_eq!(setting.sink.tally.lost(), [("slow client", 1)]);
        let setting = Setting::new(limit, SlowClient::Block);
        let far = setting.client(1);
        setting.send(&["a", "b", "c"]);
        setting.drive_the_other();
        assert!(!setting.sink.ready());
        assert_eq!(taken(&far), ["a", "b", "c"]);
        assert!(setting.sink.ready());
    }

    #[test]
    fn a_message_for_one_client_finds_it_on_any_thread() {
        let setting = Setting::new(WIDE, SlowClient::DropOldest);
        let (near, far) = (setting.client(0), setting.client(1));
        setting.send(&["a"]);
        let addressed = MessageBatch::new(Bytes::from_static(b"xyz"), vec![1, 2, 3], true, None);
        let addressed =
            addressed.addressed([far.id.clone(), near.id.clone(), "nobody".into()].map(|id| Box::from([id])).into());
        setting.here.block_on(async { setting.sink.send(&Arc::new(addressed)) });
        assert_eq!(
            (taken(&near), taken(&far)),
            (vec!["a".to_owned(), "y".to_owned()], vec!["a".to_owned(), "x".to_owned()])
        );
        assert_eq!(setting.sink.tally.lost(), [("unknown client", 1)]);
    }
}
