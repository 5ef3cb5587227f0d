//! Two or three "processes" in one: they connect, exchange data, leave, and lose each other.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Barrier, mpsc};
use std::time::{Duration, Instant};

use timely::WorkerConfig;
use timely::communication::Allocator;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::generic::operator::source;
use timely::worker::Worker;
use tokio::sync::Notify;

use super::*;
use crate::framing;

/// The limit of each test step; anything slower hangs.
const LIMIT: Duration = Duration::from_secs(20);

/// Free addresses. On Linux they stay free while the tests run: sockets that do not listen hold them.
fn hosts(count: usize) -> String {
    let address = |_| {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("the option is known");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port is free");
        let address = socket.local_addr().expect("it is bound").to_string();
        if cfg!(target_os = "linux") {
            std::mem::forget(socket);
        }
        address
    };
    (0..count).map(address).collect::<Vec<_>>().join(",")
}

fn term(value: &str) -> Introduction {
    let terms = vec![Term { name: "the rule files".to_owned(), value: value.to_owned() }];
    Introduction { terms, ..Introduction::default() }
}

/// Connects all processes of a list, each with its own terms.
async fn connect_all(hosts: &str, workers: usize, terms: &[&str]) -> Vec<Result<Links, ClusterError>> {
    let joining = terms.iter().enumerate().map(|(process, value)| {
        let membership = Membership::new(hosts, process, workers).expect("the list is right");
        connect(membership, term(value), false, |_| ())
    });
    tokio::time::timeout(LIMIT, futures_util::future::join_all(joining)).await.expect("they answer each other")
}

async fn connected(processes: usize, workers: usize) -> Vec<Links> {
    let links = connect_all(&hosts(processes), workers, &vec!["same"; processes]).await;
    links.into_iter().collect::<Result<_, _>>().expect("they fit together")
}

/// Sends `count` numbers to each worker of the cluster. Returns how many arrived, and their sum.
async fn exchange(
    builder: AllocatorBuilder,
    waker: Arc<Notify>,
    others: Vec<Arc<Notify>>,
    all: Arc<Barrier>,
    count: u64,
) -> (u64, u64) {
    set_waker(waker.clone());
    let AllocatorBuilder::Tcp(builder) = builder else { panic!("several processes exchange over TCP") };
    let mut worker = Worker::new(WorkerConfig::default(), Allocator::Tcp(builder.build()), Some(Instant::now()));
    let peers = worker.peers() as u64;
    let came = Rc::new(RefCell::new((0, 0)));
    let (done, sums) = (Rc::new(RefCell::new(false)), came.clone());
    let ended = done.clone();
    worker.dataflow::<u64, _, _>(|scope| {
        let numbers =
            source::<_, CapacityContainerBuilder<Vec<(u64, u64)>>, _, _>(scope, "numbers", |capability, _| {
                let mut capability = Some(capability);
                move |output| {
                    if let Some(capability) = capability.take() {
                        let all = (0..count).flat_map(|number| (0..peers).map(move |to| (to, number)));
                        output.session(&capability).give_iterator(all);
                    }
                }
            });
        numbers.sink(Exchange::new(|(to, _): &(u64, u64)| *to), "sum", move |(input, frontier)| {
            input.for_each(|_, numbers| {
                for (_, number) in numbers.drain(..) {
                    let (came, sum) = *sums.borrow();
                    *sums.borrow_mut() = (came + 1, sum + number);
                }
            });
            *ended.borrow_mut() = frontier.frontier().is_empty();
        });
    });
    while !*done.borrow() {
        worker.step();
        if worker.activations().borrow().empty_for() == Some(Duration::ZERO) {
            others.iter().for_each(|other| other.notify_one());
            continue;
        }
        // Without the wake-up, this would wait forever.
        if !*done.borrow() {
            tokio::time::timeout(LIMIT, waker.notified()).await.expect("it is woken");
        }
    }
    // Sends the rest before the thread ends.
    worker.step();
    others.iter().for_each(|other| other.notify_one());
    // The end of a link must not be read together with what came before it.
    all.wait();
    came.take()
}

fn unless_ended(lost: Lost) {
    assert_eq!(lost.how, Loss::Ended, "{lost}");
}

#[tokio::test]
async fn workers_of_two_processes_exchange_and_wake_each_other() {
    let (workers, count) = (2, 10_000);
    let mut threads = Vec::new();
    let mut clusters = Vec::new();
    let all = Arc::new(Barrier::new(2 * workers));
    for links in connected(2, workers).await {
        let (cluster, Part { allocators: builders, .. }) = start(links, unless_ended).expect("threads");
        let bells: Vec<Arc<Notify>> = builders.iter().map(|_| Arc::default()).collect();
        for (index, builder) in builders.into_iter().enumerate() {
            let (waker, others, all) = (bells[index].clone(), bells.clone(), all.clone());
            threads.push(std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(exchange(builder, waker, others, all, count))
            }));
        }
        clusters.push(cluster);
    }
    for thread in threads {
        let expected = (count * 4, 4 * count * (count - 1) / 2);
        assert_eq!(thread.join().expect("no panic"), expected);
    }
    clusters.iter().for_each(Cluster::leave);
}

#[tokio::test]
async fn processes_that_do_not_fit_refuse_each_other() {
    let ended = connect_all(&hosts(2), 1, &["one", "two"]).await;
    let errors: Vec<String> = ended.into_iter().map(|ended| ended.err().expect("they differ").to_string()).collect();
    assert!(errors[0].contains("differs in the rule files: it has two, this one has one"), "{errors:?}");
    assert!(errors[1].contains("differs in the rule files: it has one, this one has two"), "{errors:?}");
}

#[tokio::test]
async fn strangers_do_no_harm() {
    let hosts = hosts(2);
    let first = Membership::new(&hosts, 0, 1).expect("the list is right");
    let address = first.host().to_owned();
    let first = tokio::spawn(connect(first, term("same"), false, |_| ()));
    let stranger = async {
        loop {
            if let Ok(mut stream) = tokio::net::TcpStream::connect(&address).await {
                let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
                return tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.map(|()| stream);
            }
            tokio::task::yield_now().await;
        }
    };
    let _stranger = tokio::time::timeout(LIMIT, stranger).await.expect("it listens").expect("it takes bytes");
    let second = Membership::new(&hosts, 1, 1).expect("the list is right");
    let second = tokio::time::timeout(LIMIT, connect(second, term("same"), false, |_| ())).await;
    assert!(second.expect("it is answered").is_ok() && first.await.expect("no panic").is_ok());
}

/// The answer of a process to another version that connects from this address.
async fn answer_to_another_version(first: &Membership, from: [u8; 4]) -> greeting::Answer {
    let second = Membership::new(&first.hosts.join(","), 1, 1).expect("the list is right");
    let mut greeting = greeting::Greeting::new(&second, &term("same"), greeting::Purpose::Data);
    greeting.version = "0.0.0".to_owned();
    let to: SocketAddr = first.host().parse().expect("an address");
    let talk = async {
        loop {
            let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
            socket.bind(SocketAddr::from((from, 0))).expect("all of 127.0.0.0/8 is this machine");
            if let Ok(mut stream) = socket.connect(to).await {
                framing::send(&mut stream, &greeting).await.expect("it is open");
                return framing::receive(&mut stream).await.expect("it is answered");
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, talk).await.expect("it answers")
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn only_a_process_of_the_list_learns_what_differs_or_ends_the_start() {
    let hosts = hosts(2);
    let first = Membership::new(&hosts, 0, 1).expect("the list is right");
    let secret = Introduction { rest: Some("http://inside".to_owned()), ..term("secret") };
    let starting = tokio::spawn(connect(first.clone(), secret, false, |_| ()));
    let answer = answer_to_another_version(&first, [127, 0, 0, 9]).await;
    let greeting::Answer::Refused(why) = answer else { panic!("a stranger sees its terms: {answer:?}") };
    assert_eq!(why, "they differ, see its log");
    assert!(!starting.is_finished(), "a stranger does not end it");
    let answer = answer_to_another_version(&first, [127, 0, 0, 1]).await;
    let greeting::Answer::Refused(why) = answer else { panic!("it does not fit: {answer:?}") };
    assert!(why.contains("differs in its version: it has ") && why.contains("this one has 0.0.0"), "{why}");
    assert!(!why.contains("secret") && !why.contains("inside"), "{why}");
    let ended = tokio::time::timeout(LIMIT, starting).await.expect("it ends").expect("no panic");
    assert!(ended.err().expect("they differ").to_string().contains("differs in its version: it has 0.0.0"));
}

#[tokio::test]
async fn a_public_address_is_refused() {
    let membership = Membership::new("0.0.0.0:1,127.0.0.1:2", 0, 1).expect("the list is right");
    let refused =
        connect(membership, Introduction::default(), false, |_| ()).await.err().expect("it is public").to_string();
    assert!(refused.starts_with("process 0 would listen on 0.0.0.0:1, a public address"), "{refused}");
}

/// Starts the second of two processes, lets the first go as `go` says, and returns what is reported.
async fn lose(go: impl FnOnce(Cluster, Part)) -> Lost {
    let mut links = connected(2, 1).await.into_iter();
    let (tell, reports) = mpsc::channel();
    let first = links.next().expect("two processes");
    let (also_tell, both) = (tell.clone(), reports);
    let (cluster, part) = start(first, move |lost| also_tell.send(lost).expect("somebody waits")).expect("threads");
    let second = links.next().expect("two processes");
    let _second = start(second, move |lost| tell.send(lost).expect("somebody waits")).expect("threads");
    go(cluster, part);
    tokio::task::spawn_blocking(move || both.recv_timeout(LIMIT)).await.expect("no panic").expect("it is reported")
}

#[tokio::test]
async fn a_process_that_leaves_says_so() {
    let lost = lose(|cluster, _| cluster.leave()).await;
    assert_eq!((lost.process, &lost.how), (0, &Loss::Ended));
    assert!(lost.to_string().ends_with(") has ended in order"), "{lost}");
}

#[tokio::test]
async fn a_process_that_cannot_go_on_says_why() {
    let lost = lose(|cluster, _| cluster.fail("its port 10081 is in use")).await;
    assert_eq!((lost.process, &lost.how), (0, &Loss::Failed("its port 10081 is in use".to_owned())));
    assert!(lost.to_string().ends_with(" cannot continue: its port 10081 is in use"), "{lost}");
}

#[tokio::test]
async fn other_connections_that_close_do_not_hide_the_reason() {
    for leaves in [false, true] {
        let lost = lose(|cluster, part| {
            if leaves {
                cluster.begin_to_leave();
            }
            // The links of its data threads close.
            drop(part);
            std::thread::sleep(Duration::from_millis(700));
            if leaves { cluster.leave() } else { cluster.fail("its disk is full") }
        })
        .await;
        let how = if leaves { Loss::Ended } else { Loss::Failed("its disk is full".to_owned()) };
        assert_eq!((lost.process, lost.how), (0, how));
    }
}

#[tokio::test]
async fn a_process_that_ends_by_an_error_says_so() {
    let lost = lose(|cluster, _| drop(cluster)).await;
    assert!(
        lost.to_string().ends_with(" cannot continue: it has ended with an error, which its own log shows"),
        "{lost}"
    );
}

#[tokio::test]
async fn clients_are_handed_over_to_process_0() {
    let mut links = connected(2, 1).await.into_iter();
    let (first, second) = (links.next().expect("two processes"), links.next().expect("two processes"));
    let (Clients::Come(reception), Clients::Go(passage)) = (first.clients, second.clients) else {
        panic!("process 0 takes clients, the other hands them over")
    };
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let taking = tokio::spawn(reception.run(move |stream| drop(arrived.send(stream))));
    let mut there = passage.open().await.expect("process 0 answers");
    let mut here = tokio::time::timeout(LIMIT, arrivals.recv()).await.expect("in time").expect("it is taken");
    tokio::io::AsyncWriteExt::write_all(&mut there, b"hello").await.expect("it is open");
    let mut heard = [0; 5];
    tokio::io::AsyncReadExt::read_exact(&mut here, &mut heard).await.expect("it is open");
    assert_eq!(&heard, b"hello");
    // A process that is restarted alone is turned away.
    let greeting = greeting::Greeting::new(&second.membership, &term("same"), greeting::Purpose::Data);
    let mut alone = tokio::net::TcpStream::connect(second.membership.hosts[0].as_str()).await.expect("it listens");
    framing::send(&mut alone, &greeting).await.expect("it is open");
    let answer = tokio::time::timeout(LIMIT, framing::receive::<greeting::Answer>(&mut alone)).await;
    assert!(answer.expect("it is closed in time").is_err());
    taking.abort();
}

#[tokio::test]
async fn the_last_word_of_a_process_is_heard_before_it_goes() {
    let mut links = connected(2, 1).await.into_iter();
    let (first, second) = (links.next().expect("two processes"), links.next().expect("two processes"));
    let (tell, reports) = mpsc::channel();
    let (first, _part) = start(first, |_| ()).expect("threads");
    let _second = start(second, move |lost| tell.send(lost).expect("somebody waits")).expect("threads");
    let heard = tokio::task::spawn_blocking(move || {
        first.fail("its clock has stopped");
        // Its sockets close now, with what they have not read.
        drop(first);
        reports.recv_timeout(LIMIT)
    });
    let lost = heard.await.expect("no panic").expect("it is reported");
    assert_eq!(lost.how, Loss::Failed("its clock has stopped".to_owned()));
}

/// Two processes with a control link. Each answers with its number and the question.
async fn controlled() -> [(Cluster, Control); 2] {
    let hosts = hosts(2);
    let joining = (0..2).map(|process| {
        let membership = Membership::new(&hosts, process, 1).expect("the list is right");
        let rest = Some(format!("http://process-{process}"));
        connect(membership, Introduction { control: true, rest, ..Introduction::default() }, false, |_| ())
    });
    let links = tokio::time::timeout(LIMIT, futures_util::future::join_all(joining)).await.expect("they connect");
    let started = links.into_iter().enumerate().map(|(process, links)| {
        let (mut cluster, _) = start(links.expect("they fit"), |_| ()).expect("threads");
        let socket = cluster.controls.pop().expect("there is a control link");
        let answers: Answers = Arc::new(move |mut question: Vec<u8>| {
            Box::pin(async move {
                // The first questions are answered last.
                tokio::time::sleep(Duration::from_millis(50 - u64::from(question[0]).min(50))).await;
                question.push(process as u8);
                question
            })
        });
        (cluster, socket.start(answers).expect("a socket"))
    });
    started.collect::<Vec<_>>().try_into().unwrap_or_else(|_| unreachable!("there are two"))
}

#[tokio::test]
async fn questions_get_their_own_answers_in_both_directions() {
    let [(first, asks), (second, asks_too)] = controlled().await;
    assert_eq!((first.rest.as_deref(), second.rest.as_deref()), (None, Some("http://process-0")));
    let questions = (0..100_u8).map(|number| {
        let (asks, other) = if number % 2 == 0 { (&asks, 1) } else { (&asks_too, 0) };
        async move { (asks.ask(vec![number; 100_000]).await, number, other) }
    });
    for (answer, number, other) in futures_util::future::join_all(questions).await {
        let mut expected = vec![number; 100_000];
        expected.push(other);
        assert_eq!(answer, Ok(expected));
    }
}

#[tokio::test]
async fn a_small_question_does_not_wait_for_a_large_one() {
    let [(_first, asks), (_second, _asks_too)] = controlled().await;
    let large = tokio::spawn({
        let asks = asks.clone();
        async move { asks.ask(vec![60; 128 << 20]).await }
    });
    let mut small = 0;
    while !large.is_finished() {
        assert_eq!(asks.ask(vec![60, 2]).await, Ok(vec![60, 2, 1]));
        small += 1;
    }
    let large = large.await.expect("no panic").expect("it is answered");
    assert_eq!((large.len(), large.last()), ((128 << 20) + 1, Some(&1)));
    assert!(small > 3, "{small} questions were answered meanwhile");
}

#[tokio::test]
async fn a_question_to_a_process_that_is_gone_has_no_answer() {
    let [(_first, asks), (second, asks_too)] = controlled().await;
    drop((second, asks_too));
    let gone = async { while asks.ask(vec![0]).await.is_ok() {} };
    tokio::time::timeout(LIMIT, gone).await.expect("it notices");
}

#[tokio::test]
async fn a_process_that_dies_is_noticed() {
    let lost = lose(|cluster, _| cluster.heartbeats.cut()).await;
    assert_eq!((lost.process, &lost.how), (0, &Loss::Closed));
    assert!(lost.to_string().ends_with(" is gone: its connection was closed"), "{lost}");
}

#[tokio::test]
async fn a_data_thread_that_panics_is_noticed() {
    let lost = lose(|_, part| {
        let sentinel = part.sentinel();
        let thread = std::thread::spawn(move || {
            let _sentinel = sentinel;
            panic!("this panic belongs to the test");
        });
        assert!(thread.join().is_err());
    })
    .await;
    assert_eq!((lost.process, &lost.how), (0, &Loss::Crashed));
}
