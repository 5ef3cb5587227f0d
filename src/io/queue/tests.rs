//! Tests of the queues: what full queues do, and that every waiter is woken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::*;

fn signal() -> (Signal, Receiver<usize>, Arc<Notify>) {
    let (ready, slots) = crossbeam_channel::unbounded();
    let wake = Arc::new(Notify::new());
    (Signal::new(7, ready, wake.clone()), slots, wake)
}

fn batch(text: &'static str) -> FrameBatch {
    let frames = vec![Frame::Text(Utf8Bytes::from_static(text))];
    FrameBatch { frames, origin: None, received: Instant::now() }
}

#[test]
fn a_raised_signal_is_queued_once() {
    let (signal, slots, _) = signal();
    signal.raise();
    signal.raise();
    assert_eq!(slots.try_iter().collect::<Vec<_>>(), [7]);
    signal.lower();
    signal.raise();
    assert_eq!(slots.try_iter().collect::<Vec<_>>(), [7]);
}

#[tokio::test]
async fn a_full_queue_makes_the_sender_wait_and_loses_nothing() {
    let (signal, _slots, _) = signal();
    let (sender, receiver) = inbound(signal);
    for _ in 0..INBOUND_BATCHES {
        sender.send(batch("x")).await.unwrap();
    }
    let mut waiting = tokio_test(sender.send(batch("last")));
    assert!(waiting.poll_once().await.is_none());
    let mut seen = 0;
    while let Received::Batch(_) = receiver.receive() {
        seen += 1;
    }
    assert_eq!(seen, INBOUND_BATCHES);
    waiting.finish().await.unwrap();
    assert!(matches!(receiver.receive(), Received::Batch(_)));
}

#[tokio::test]
async fn senders_learn_that_the_stream_has_ended() {
    let (signal, _slots, _) = signal();
    let (sender, receiver) = inbound(signal);
    for _ in 0..INBOUND_BATCHES {
        sender.send(batch("x")).await.unwrap();
    }
    let mut waiting = tokio_test(sender.send(batch("last")));
    assert!(waiting.poll_once().await.is_none());
    drop(receiver);
    assert!(waiting.finish().await.is_err());
}

#[test]
fn a_worker_that_found_the_queue_full_is_told_of_space_once() {
    let (reads, _slots, _) = signal();
    let (ready, woken) = crossbeam_channel::unbounded();
    let writes = Signal::new(9, ready, Arc::new(Notify::new()));
    let (sender, receiver) = inbound(reads);
    for _ in 0..INBOUND_BATCHES {
        sender.offer(batch("x"), &writes).expect("there is space");
    }
    for _ in 0..2 {
        assert!(matches!(sender.offer(batch("y"), &writes), Err(Refused::Full(_))));
    }
    assert!(woken.is_empty());
    receiver.receive();
    receiver.receive();
    assert_eq!(woken.try_iter().collect::<Vec<_>>(), [9]);
    writes.lower();
    sender.offer(batch("y"), &writes).expect("there is space");
    sender.offer(batch("y"), &writes).expect("there is space");
    assert!(matches!(sender.offer(batch("y"), &writes), Err(Refused::Full(_))));
    drop(receiver);
    assert_eq!(woken.try_iter().collect::<Vec<_>>(), [9]);
    assert!(matches!(sender.offer(batch("y"), &writes), Err(Refused::Ended)));
}

#[test]
fn a_batch_slices_its_messages() {
    let batch = MessageBatch::new(Bytes::from_static(b"abcde"), vec![2, 2, 5], true, None);
    let messages: Vec<_> = batch.messages().collect();
    assert_eq!(messages, [&b"ab"[..], b"", b"cde"]);
    assert_eq!((batch.byte_len_of(0, 1), batch.byte_len_of(1, 2), batch.byte_len_of(3, 0)), (2, 3, 0));
    assert_eq!(batch.messages_from(1).collect::<Vec<_>>(), [&b""[..], b"cde"]);
}

/// Polls a future step by step.
struct Stepped<F>(std::pin::Pin<Box<F>>);

fn tokio_test<F: Future>(future: F) -> Stepped<F> {
    Stepped(Box::pin(future))
}

impl<F: Future> Stepped<F> {
    async fn poll_once(&mut self) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            std::task::Poll::Ready(match self.0.as_mut().poll(cx) {
                std::task::Poll::Ready(output) => Some(output),
                std::task::Poll::Pending => None,
            })
        })
        .await
    }

    async fn finish(self) -> F::Output {
        tokio::time::timeout(Duration::from_secs(5), self.0).await.expect("the future ends")
    }
}
