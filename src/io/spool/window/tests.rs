use bytes::Bytes;

use super::*;

const PLENTY: Room = room(1000);

const fn room(messages: usize) -> Room {
    let limit = QueueLimit { messages, bytes: 1 << 20 };
    Room { usual: limit, most: limit }
}

fn batch(messages: usize) -> Arc<MessageBatch> {
    let ends = (1..=messages as u32).collect();
    Arc::new(MessageBatch::new(Bytes::from(vec![b'x'; messages]), ends, true, None))
}

fn taken(window: &mut Window) -> Vec<(u64, usize)> {
    std::iter::from_fn(|| {
        window.take(Resend::InOrder, false).map(|portion| (portion.number, portion.batch.len() - portion.next))
    })
    .collect()
}

#[test]
fn what_is_not_proven_is_taken_again() {
    let mut window = Window::new(0, 0, Ranges::default());
    window.push(&batch(3), 100, PLENTY);
    window.push(&batch(2), 100, PLENTY);
    assert_eq!(taken(&mut window), [(0, 3), (3, 2)]);
    assert_eq!((window.forget(4), window.has_unproven()), (4, true));
    window.rewind(Resend::InOrder);
    let portion = window.take(Resend::InOrder, false).expect("one is left");
    assert_eq!((portion.number, portion.next, portion.resent), (4, 1, true));
    window.push(&batch(1), 100, PLENTY);
    assert!(!window.take(Resend::InOrder, false).expect("a new one").resent);
    window.back(4);
    assert_eq!(window.cursor, 4);
    assert_eq!((window.forget(99), window.queued(), window.has_unproven()), (2, 0, false));
}

#[test]
fn the_oldest_go_beyond_the_capacity() {
    let mut window = Window::new(0, 0, Ranges::default());
    assert_eq!(window.push(&batch(4), 6, PLENTY), Excess::default());
    assert_eq!(window.push(&batch(4), 6, PLENTY), Excess { kept: 2, memory: 0 });
    assert_eq!((window.queued(), window.first()), (6, 2));
    assert_eq!(taken(&mut window), [(2, 2), (4, 4)]);
    // Messages that were done in between do not count.
    assert_eq!(window.finish(4, 2), 2);
    assert_eq!(window.queued(), 4);
    assert_eq!(window.push(&batch(3), 4, PLENTY), Excess { kept: 3, memory: 0 });
    assert_eq!((window.queued(), window.first()), (4, 7));
}

#[test]
fn what_is_on_disk_leaves_memory_and_is_read_again() {
    let small = room(2);
    let mut window = Window::new(0, 0, Ranges::default());
    (0..3).for_each(|_| _ = window.push(&batch(1), 100, PLENTY));
    assert_eq!(window.unwritten().len(), 3);
    assert_eq!(window.wrote(3, small), 0);
    assert!(
        window.unwritten().is_empty()
            && window.take(Resend::InOrder, false).is_none()
            && window.wants_disk()
            && !window.wants_disk()
    );
    assert_eq!(window.load_from(), Some(0));
    let page = Page { lots: vec![Lot { first: 0, batch: batch(1) }], damaged: 0 };
    assert_eq!(window.loads(0, page), 0);
    assert_eq!(taken(&mut window), [(0, 1), (1, 1), (2, 1)]);
    window.rewind(Resend::InOrder);
    assert!(window.wants_disk());
    // All messages that were read are damaged: the window continues in memory.
    assert_eq!(window.loads(0, Page { lots: Vec::new(), damaged: 9 }), 1);
    assert_eq!((taken(&mut window), window.queued()), (vec![(1, 1), (2, 1)], 2));
}

#[test]
fn damage_within_a_page_is_counted_and_does_not_stay() {
    let mut window = Window::new(0, 10, Ranges::default());
    assert!(window.take(Resend::InOrder, false).is_none() && window.wants_disk());
    let lots = [(2, 1), (5, 2)].map(|(first, messages)| Lot { first, batch: batch(messages) });
    assert_eq!(window.loads(0, Page { lots: lots.into(), damaged: 0 }), 2);
    assert_eq!((taken(&mut window), window.damage(), window.damage()), (vec![(2, 1), (5, 2)], 2, 0));
    // The taken messages are not sent: they are read again, and do not count as damaged.
    window.back(2);
    assert!(window.take(Resend::InOrder, false).is_none() && window.wants_disk());
    assert_eq!(window.loads(2, Page { lots: vec![Lot { first: 2, batch: batch(1) }], damaged: 0 }), 0);
    assert_eq!((taken(&mut window), window.damage()), (vec![(2, 1)], 0));
    assert_eq!((window.forget(7), window.first(), window.queued()), (3, 7, 3));
    // None of the remaining messages can be read.
    assert!(window.wants_disk());
    assert_eq!(window.loads(window.cursor, Page::default()), 3);
    assert_eq!((window.first(), window.queued()), (10, 0));
}

#[test]
fn a_disk_that_takes_nothing_costs_the_oldest_in_memory() {
    let small = room(2);
    let mut window = Window::new(0, 2, Ranges::default());
    assert_eq!(window.queued(), 2);
    (0..2).for_each(|_| assert_eq!(window.push(&batch(1), 100, small), Excess::default()));
    assert_eq!(window.push(&batch(1), 100, small), Excess { kept: 0, memory: 1 });
    assert_eq!(window.queued(), 4);
    assert!(window.take(Resend::InOrder, false).is_none() && window.wants_disk());
    let page = Page { lots: vec![Lot { first: 0, batch: batch(2) }], damaged: 0 };
    window.loads(0, page);
    assert_eq!(taken(&mut window), [(0, 2), (3, 1), (4, 1)]);
    assert_eq!((window.forget(5), window.queued()), (4, 0));
}

#[test]
fn rules_wait_before_anything_is_dropped() {
    let tight = Room { most: room(4).most, ..room(2) };
    let mut window = Window::new(0, 0, Ranges::default());
    for (waits, lost) in [(false, 0), (false, 0), (true, 0), (true, 0), (true, 1)] {
        assert_eq!(window.push(&batch(1), 100, tight), Excess { kept: 0, memory: lost });
        assert_eq!(window.is_ready(tight), !waits);
    }
    assert!(!window.relieved(tight, false));
    assert_eq!(window.wrote(3, tight), 0);
    assert_eq!(
        (window.relieved(tight, false), window.relieved(tight, true), window.is_ready(tight)),
        (true, false, true)
    );
    assert_eq!((window.queued(), window.unwritten().len()), (4, 2));
}

#[test]
fn who_waits_is_told_though_another_asks_first() {
    let tight = Room { most: room(4).most, ..room(2) };
    let mut window = Window::new(0, 0, Ranges::default());
    (0..3).for_each(|_| _ = window.push(&batch(1), 100, tight));
    assert!(!window.is_ready(tight));
    assert_eq!(window.wrote(3, tight), 0);
    assert!(window.is_ready(tight), "another thread finds room");
    assert_eq!((window.relieved(tight, false), window.relieved(tight, false)), (true, false));
}

#[test]
fn holes_grow_together() {
    let mut window = Window::new(0, 100, Ranges::default());
    for (number, messages, new) in [(10, 5, 5), (20, 5, 5), (12, 10, 5), (5, 1, 1), (0, 5, 5), (0, 100, 79)] {
        assert_eq!(window.finish(number, messages), new, "{number}");
    }
    assert_eq!((window.queued(), window.first()), (0, 100));
}

/// The numbers and lengths of taken messages, with a star for late ones.
fn order(window: &mut Window, resend: Resend) -> String {
    let portions = std::iter::from_fn(|| window.take(resend, false));
    let shown = portions.map(|Portion { batch, next, number, resent }| {
        format!("{number}+{}{}", batch.len() - next, if resent { "*" } else { "" })
    });
    shown.collect::<Vec<_>>().join(" ")
}

#[test]
fn late_messages_need_not_be_first() {
    for (resend, expected) in [
        (Resend::InOrder, "0+2* 2+1* 3+1* 4+2 6+1"),
        (Resend::LateFirst, "0+2* 2+1* 3+1* 4+2 6+1"),
        (Resend::InTurn, "4+2 0+2* 6+1 2+1* 3+1*"),
        (Resend::NewFirst, "4+2 6+1 0+2* 2+1* 3+1*"),
    ] {
        let mut window = Window::new(0, 0, Ranges::default());
        [2, 1, 1].into_iter().for_each(|messages| _ = window.push(&batch(messages), 100, PLENTY));
        window.rewind(resend);
        [2, 1].into_iter().for_each(|messages| _ = window.push(&batch(messages), 100, PLENTY));
        assert_eq!(order(&mut window, resend), expected, "{resend:?}");
        // From here on, there is one order.
        assert!(!window.is_split());
        window.push(&batch(1), 100, PLENTY);
        assert_eq!(order(&mut window, resend), "7+1", "{resend:?}");
        let taken = window.taken();
        assert_eq!((window.prove(&taken), window.queued(), window.has_unproven()), (8, 0, false));
    }
}

#[test]
fn what_was_taken_before_its_turn_is_proven_and_not_taken_twice() {
    let mut window = Window::new(0, 0, Ranges::default());
    window.push(&batch(3), 100, PLENTY);
    window.rewind(Resend::NewFirst);
    window.push(&batch(4), 100, PLENTY);
    assert_eq!(window.take(Resend::NewFirst, true).map(|portion| portion.number), Some(3));
    // While late messages pause, there is nothing else.
    assert!(!window.has_more(true) && window.has_more(false) && window.take(Resend::NewFirst, true).is_none());
    // Two of the four were sent.
    window.back(5);
    assert_eq!(window.take(Resend::NewFirst, true).map(|portion| portion.number), Some(5));
    window.back(5);
    let taken = window.taken();
    assert_eq!((window.prove(&taken), window.first(), window.queued(), window.has_unproven()), (2, 0, 5, false));
    assert_eq!(order(&mut window, Resend::NewFirst), "5+2 0+3*");
    window.rewind(Resend::NewFirst);
    assert_eq!(order(&mut window, Resend::NewFirst), "0+3* 5+2*", "what is proven is not sent again");
    assert_eq!((window.forget(7), window.queued()), (5, 0));
}

#[test]
fn new_messages_that_have_left_memory_become_late_ones() {
    let small = room(2);
    let mut window = Window::new(0, 2, Ranges::default());
    window.rewind(Resend::NewFirst);
    (2..8).for_each(|_| _ = window.push(&batch(1), 100, PLENTY));
    assert_eq!(window.take(Resend::NewFirst, true).map(|portion| portion.number), Some(2));
    assert_eq!(window.wrote(8, small), 0);
    assert_eq!(window.take(Resend::NewFirst, false).map(|portion| portion.number), Some(6));
    assert_eq!(window.take(Resend::NewFirst, false).map(|portion| portion.number), Some(7));
    assert!(window.take(Resend::NewFirst, false).is_none() && window.wants_disk());
    let lots = [(0, 2), (2, 1), (3, 1), (4, 1), (5, 1)].map(|(first, messages)| Lot { first, batch: batch(messages) });
    assert_eq!(window.loads(0, Page { lots: lots.into(), damaged: 0 }), 0);
    assert_eq!(order(&mut window, Resend::NewFirst), "0+2* 3+1* 4+1* 5+1*");
    assert!(!window.is_split());
    assert_eq!((window.damage(), window.forget(8), window.queued()), (0, 8, 0));
}

#[test]
fn what_was_done_with_before_its_turn_needs_neither_memory_nor_disk() {
    let mut window = Window::new(0, 3, Ranges::default());
    window.rewind(Resend::NewFirst);
    for _ in 0..5 {
        window.push(&batch(2), 100, room(1));
        assert!(window.take(Resend::NewFirst, true).is_some_and(|portion| !portion.resent));
        let taken = window.taken();
        assert_eq!(window.prove(&taken), 2);
    }
    assert!(window.unwritten().is_empty() && window.is_ready(room(1)));
    assert_eq!((window.queued(), window.holes().iter().collect::<Vec<_>>()), (3, vec![(3, 13)]));
    let mut again = Window::new(0, 13, window.holes().clone());
    assert_eq!((again.queued(), again.wants_disk()), (3, true));
    let lots = vec![Lot { first: 0, batch: batch(3) }];
    assert_eq!(again.loads(0, Page { lots, damaged: 0 }), 0);
    assert_eq!(order(&mut again, Resend::InOrder), "0+3*");
    assert_eq!((again.forget(3), again.first(), again.queued()), (3, 13, 0));
}

/// After a kill, the log and what it records account for all messages that were added before the last one in the log.
#[test]
fn what_is_not_written_is_recorded_as_done() {
    let mut window = Window::new(0, 0, Ranges::default());
    let messages = 4 * HOLES as u64;
    (0..messages).for_each(|_| _ = window.push(&batch(1), messages, PLENTY));
    // Every second one is done, out of order.
    (0..messages / 2).for_each(|pair| _ = window.finish(2 * pair + 1, 1));
    let mut recorded = Ranges::default();
    window.holes().iter().take(HOLES).for_each(|(start, end)| _ = recorded.add(start, end));
    let fresh = window.unwritten();
    let mut known = recorded.clone();
    fresh.iter().for_each(|lot| _ = known.add(lot.first, lot.end()));
    assert_eq!((known.total(), known.len()), (messages, 1));
    assert_eq!(fresh.len() as u64 + recorded.total(), messages, "what is recorded is not written");
}
