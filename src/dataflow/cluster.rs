//! The shared worker, which transports letters between data threads.
//!
//! Each data thread runs streams and rules on its own timely worker. If there are several threads, each has a second
//! worker, and these second workers form one timely cluster. The cluster has one dataflow, `post → exchange → inbox`,
//! which every worker builds before anything else. So workers need not agree on an order of dataflows, and a rule that
//! starts or ends costs the cluster nothing.
//!
//! **Guarantees.** Letters from one worker to another arrive once, in the order in which they were posted. Letters from
//! different workers have no order. A thread that receives a letter is woken. [`Traffic`] shows when no letters are on
//! their way.
//!
//! **No guarantees.** It limits nothing: senders must limit what they have on its way. Time does not advance in this
//! dataflow, so timely has no progress to report (a change of time costs 5–13 µs for each worker); watermarks and other
//! times travel in letters. It knows nothing of rules: a letter is any plain data.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use timely::WorkerConfig;
use timely::communication::allocator::ProcessBuilder;
use timely::communication::{Allocator, AllocatorBuilder, Hooks};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::generic::operator::source;
use timely::scheduling::Activator;
use timely::worker::Worker;
use tokio::sync::Notify;

use crate::cluster::{self, Part, Sentinel};

/// A message from one worker to another.
pub trait Letter: Clone + Send + Serialize + DeserializeOwned + 'static {}

impl<L: Clone + Send + Serialize + DeserializeOwned + 'static> Letter for L {}

/// The number of letters on their way between the workers of this process. Clones share it.
#[derive(Clone, Default)]
pub struct Traffic(Arc<Counts>);

#[derive(Default)]
struct Counts {
    posted: AtomicU64,
    received: AtomicU64,
}

impl Traffic {
    /// Letters posted and received between workers of this process since the start. If both numbers are equal and
    /// unchanged in two calls, no letters were on their way between them.
    pub fn counts(&self) -> (u64, u64) {
        // In this order, so that a letter that is received in between does not hide one that is on its way.
        let received = self.0.received.load(Ordering::SeqCst);
        (self.0.posted.load(Ordering::SeqCst), received)
    }
}

/// A place in a cluster, for the thread that will run its worker.
pub struct Seat {
    allocator: AllocatorBuilder,
    home: Home,
    /// wakes this thread
    waker: Arc<Notify>,
    sentinel: Option<Sentinel>,
    traffic: Traffic,
}

/// The workers of this process among those of the cluster.
#[derive(Clone)]
struct Home {
    wakes: Arc<[Arc<Notify>]>,
    first: usize,
}

impl Home {
    /// The waker of a worker, if it is in this process.
    fn wake(&self, worker: usize) -> Option<&Arc<Notify>> {
        self.wakes.get(worker.checked_sub(self.first)?)
    }
}

/// The seats of a cluster whose workers are all in this process; `wakes[i]` wakes worker `i`.
pub fn of_process(wakes: Vec<Arc<Notify>>, traffic: &Traffic) -> Vec<Seat> {
    let hooks = Hooks::default();
    let builders = ProcessBuilder::new_typed_vector(wakes.len(), hooks.refill, hooks.spill);
    let home = Home { wakes: wakes.clone().into(), first: 0 };
    let seat = |(builder, waker)| {
        let allocator = AllocatorBuilder::Process(builder);
        Seat { allocator, home: home.clone(), waker, sentinel: None, traffic: traffic.clone() }
    };
    builders.into_iter().zip(wakes).map(seat).collect()
}

/// The seats of this process in a cluster of several processes. Workers are woken by each other, and by the threads
/// that read from the network.
pub fn of_cluster(mut part: Part, wakes: Vec<Arc<Notify>>, traffic: &Traffic) -> Vec<Seat> {
    let home = Home { wakes: wakes.clone().into(), first: part.membership.first_worker() };
    let allocators = std::mem::take(&mut part.allocators);
    let seat = |(allocator, waker)| {
        let (home, sentinel) = (home.clone(), Some(part.sentinel()));
        Seat { allocator, home, waker, sentinel, traffic: traffic.clone() }
    };
    allocators.into_iter().zip(wakes).map(seat).collect()
}

#[derive(Clone, Serialize, Deserialize)]
struct Envelope<L> {
    from: usize,
    to: usize,
    letter: L,
}

/// Letters that were posted but are not in the dataflow yet.
struct Outbox<L> {
    envelopes: RefCell<Vec<Envelope<L>>>,
    /// the workers with letters that were not woken yet
    unwoken: RefCell<Vec<usize>>,
    source: RefCell<Option<Activator>>,
    index: usize,
    home: Home,
    traffic: Traffic,
}

/// Sends letters from one worker. Clones share it.
pub struct Post<L>(Rc<Outbox<L>>);

impl<L> Clone for Post<L> {
    fn clone(&self) -> Self {
        Post(self.0.clone())
    }
}

impl<L: Letter> Post<L> {
    /// Sends a letter, with the next step of the shared worker.
    pub fn send(&self, to: usize, letter: L) {
        let outbox = &self.0;
        if outbox.home.wake(to).is_some() {
            outbox.traffic.0.posted.fetch_add(1, Ordering::SeqCst);
        }
        outbox.envelopes.borrow_mut().push(Envelope { from: outbox.index, to, letter });
        let mut unwoken = outbox.unwoken.borrow_mut();
        if !unwoken.contains(&to) {
            unwoken.push(to);
        }
        if let Some(source) = &*outbox.source.borrow() {
            source.activate();
        }
    }

    /// The number of this worker.
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// Whether a worker is in this process.
    pub fn is_near(&self, worker: usize) -> bool {
        self.0.home.wake(worker).is_some()
    }
}

/// Letters that have arrived, each with the number of its sender.
type Inbox<L> = Rc<RefCell<Vec<(usize, L)>>>;

/// A worker of the cluster.
pub struct SharedWorker<L> {
    /// before the worker, because dropping the worker may panic again
    _sentinel: Option<Sentinel>,
    worker: Worker,
    post: Post<L>,
    inbox: Inbox<L>,
}

impl<L: Letter> SharedWorker<L> {
    /// Takes a seat. Must be called on the thread that will run the worker; returns when all threads of this process
    /// have taken theirs.
    pub fn take(seat: Seat) -> Self {
        let Seat { allocator, home, waker, sentinel, traffic } = seat;
        cluster::set_waker(waker);
        let allocator = match allocator {
            AllocatorBuilder::Thread(_) => Allocator::Thread(Default::default()),
            AllocatorBuilder::Process(process) => Allocator::Process(process.build()),
            AllocatorBuilder::Tcp(tcp) => Allocator::Tcp(tcp.build()),
        };
        let mut worker = Worker::new(WorkerConfig::default(), allocator, Some(Instant::now()));
        let outbox = Outbox {
            envelopes: RefCell::default(),
            unwoken: RefCell::default(),
            source: RefCell::default(),
            index: worker.index(),
            home,
            traffic,
        };
        let (post, inbox) = (Post(Rc::new(outbox)), Inbox::default());
        build(&mut worker, &post, &inbox);
        SharedWorker { _sentinel: sentinel, worker, post, inbox }
    }

    /// Sends letters from this worker.
    pub fn post(&self) -> &Post<L> {
        &self.post
    }

    /// The number of this thread in its process.
    pub fn thread(&self) -> usize {
        self.post.index() - self.post.0.home.first
    }

    /// The number of workers in the cluster.
    pub fn peers(&self) -> usize {
        self.worker.peers()
    }

    /// The workers at the same position in other processes.
    pub fn counterparts(&self) -> impl Iterator<Item = usize> {
        let (own, threads) = (self.post.index(), self.post.0.home.wakes.len());
        (0..self.peers()).filter(move |worker| worker % threads == own % threads && *worker != own)
    }

    /// Sends posted letters and receives others; true: there may be more to do. Must be called before checking whether
    /// there is anything to do, because only a step notices what has arrived.
    pub fn step(&mut self) -> bool {
        self.worker.step();
        for peer in self.post.0.unwoken.borrow_mut().drain(..) {
            self.post.0.home.wake(peer).iter().for_each(|wake| wake.notify_one());
        }
        // Operators that ran in a step are listed until the next one.
        self.worker.activations().borrow().empty_for() == Some(Duration::ZERO)
    }

    /// Takes the letters that have arrived, each with the number of its sender. They count as received.
    pub fn receive(&self) -> Vec<(usize, L)> {
        let letters = std::mem::take(&mut *self.inbox.borrow_mut());
        let near = letters.iter().filter(|(from, _)| self.post.is_near(*from)).count();
        if near > 0 {
            self.post.0.traffic.0.received.fetch_add(near as u64, Ordering::SeqCst);
        }
        letters
    }
}

/// Builds the dataflow of the cluster.
fn build<L: Letter>(worker: &mut Worker, post: &Post<L>, inbox: &Inbox<L>) {
    let (outbox, inbox) = (post.0.clone(), inbox.clone());
    worker.dataflow_named::<u64, _, _>("cluster", |scope| {
        let letters =
            source::<_, CapacityContainerBuilder<Vec<Envelope<L>>>, _, _>(scope, "post", |capability, info| {
                *outbox.source.borrow_mut() = Some(scope.activator_for(info.address));
                let outbox = outbox.clone();
                move |output| {
                    let mut envelopes = outbox.envelopes.borrow_mut();
                    if !envelopes.is_empty() {
                        // The capability is never downgraded, because time does not advance.
                        output.session(&capability).give_iterator(envelopes.drain(..));
                    }
                }
            });
        letters.sink(Exchange::new(|envelope: &Envelope<L>| envelope.to as u64), "inbox", move |(input, _frontier)| {
            let mut inbox = inbox.borrow_mut();
            input.for_each(|_time, envelopes| {
                inbox.extend(envelopes.drain(..).map(|envelope| (envelope.from, envelope.letter)));
            });
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A letter: its number among those from its sender to its receiver.
    type Number = u32;

    /// Letters from each worker to each other one.
    const LETTERS: u32 = 2000;

    /// Sends letters to all others, a few at a time, and returns what has arrived, by sender.
    async fn correspond(seat: Seat, wake: Arc<Notify>) -> Vec<Vec<Number>> {
        let mut shared = SharedWorker::<Number>::take(seat);
        let (post, peers) = (shared.post().clone(), shared.peers());
        let mut came = vec![Vec::new(); peers];
        let mut sent = 0;
        loop {
            let burst = if sent < LETTERS { fastrand::u32(1..50).min(LETTERS - sent) } else { 0 };
            for number in sent..sent + burst {
                (0..peers).filter(|to| *to != post.index()).for_each(|to| post.send(to, number));
            }
            sent += burst;
            while shared.step() {}
            shared.receive().into_iter().for_each(|(from, number)| came[from].push(number));
            let all = came.iter().map(Vec::len).sum::<usize>() == (peers - 1) * LETTERS as usize;
            if sent == LETTERS && all {
                return came;
            }
            if sent < LETTERS {
                tokio::task::yield_now().await;
            } else {
                // Without a wake-up it would wait for ever.
                let woken = tokio::time::timeout(Duration::from_secs(60), wake.notified()).await;
                woken.expect("a letter wakes its receiver");
            }
        }
    }

    #[test]
    fn letters_arrive_once_in_order_and_wake_their_receivers() {
        let wakes: Vec<Arc<Notify>> = (0..3).map(|_| Arc::default()).collect();
        let traffic = Traffic::default();
        let seats = of_process(wakes.clone(), &traffic);
        let threads = seats.into_iter().zip(wakes).map(|(seat, wake)| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(correspond(seat, wake))
            })
        });
        let threads: Vec<_> = threads.collect();
        for (index, thread) in threads.into_iter().enumerate() {
            let came = thread.join().expect("no panic");
            for (from, numbers) in came.into_iter().enumerate() {
                let expected: Vec<Number> = if from == index { Vec::new() } else { (0..LETTERS).collect() };
                assert!(numbers == expected, "from {from} to {index}: {} letters", numbers.len());
            }
        }
        let all = 3 * 2 * u64::from(LETTERS);
        assert_eq!(traffic.counts(), (all, all));
    }
}
