//! The servers of a templated URL that fail at the moment, and the messages that wait for them. Plain data.
//!
//! Messages name these servers, so one that does not exist must not hold up those for others: of each server one message
//! is tried again at a time, apart from all others, and those that follow wait here, in order and bounded.

use std::collections::{HashMap, VecDeque};

use super::Origin;

/// The most servers that fail at a time.
const HOSTS: usize = 256;

/// The most messages that wait for one server.
const WAITING: usize = 256;

/// The most bytes of the messages that wait for all of them or are tried.
const BYTES: usize = 16 << 20;

/// See the module. `T` is a message.
#[derive(Debug)]
pub(super) struct Failing<T> {
    hosts: HashMap<Origin, Host<T>>,
    /// the bytes of all messages that wait or are tried
    bytes: usize,
}

#[derive(Debug)]
struct Host<T> {
    /// the messages that wait, with their bytes
    waiting: VecDeque<(T, usize)>,
    /// the bytes of the message that is tried, if one is
    tried: Option<usize>,
}

impl<T> Default for Failing<T> {
    fn default() -> Failing<T> {
        Failing { hosts: HashMap::new(), bytes: 0 }
    }
}

impl<T> Failing<T> {
    /// A server fails, and one of its messages is tried. False if too many others do, or their messages are too large.
    pub fn begin(&mut self, host: &Origin, bytes: usize) -> bool {
        if self.bytes + bytes > BYTES {
            return false;
        }
        if self.hosts.len() >= HOSTS {
            let idle = self.hosts.iter().find(|(_, host)| host.tried.is_none()).map(|(host, _)| host.clone());
            let Some(idle) = idle else { return false };
            self.hosts.remove(&idle);
        }
        self.hosts.insert(host.clone(), Host { waiting: VecDeque::new(), tried: Some(bytes) });
        self.bytes += bytes;
        true
    }

    /// Whether a server fails.
    pub fn has(&self, host: &Origin) -> bool {
        self.hosts.contains_key(host)
    }

    /// Whether a server fails and none of its messages is tried: then one may be.
    pub fn wake(&mut self, host: &Origin, bytes: usize) -> bool {
        match self.hosts.get_mut(host) {
            Some(host) if host.tried.is_none() && self.bytes + bytes <= BYTES => {
                host.tried = Some(bytes);
                self.bytes += bytes;
                true
            }
            _ => false,
        }
    }

    /// Makes a message wait for its server, which fails.
    ///
    /// # Errors
    /// The message: too many wait.
    pub fn wait(&mut self, host: &Origin, message: T, bytes: usize) -> Result<(), T> {
        match self.hosts.get_mut(host) {
            Some(host) if host.waiting.len() < WAITING && self.bytes + bytes <= BYTES => {
                host.waiting.push_back((message, bytes));
                self.bytes += bytes;
                Ok(())
            }
            _ => Err(message),
        }
    }

    /// The next message of a server, of which one was tried; `works`: the server has answered. If no more wait, a server
    /// that works is not among the failing ones any more.
    pub fn next(&mut self, host: &Origin, works: bool) -> Option<T> {
        let known = self.hosts.get_mut(host)?;
        self.bytes -= known.tried.take().unwrap_or_default();
        match known.waiting.pop_front() {
            Some((message, bytes)) => {
                known.tried = Some(bytes);
                return Some(message);
            }
            None if works => drop(self.hosts.remove(host)),
            None => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: usize) -> Origin {
        Origin { secure: false, host: format!("h{number}"), port: 80 }
    }

    #[test]
    fn messages_wait_in_order_and_bounded() {
        let mut failing = Failing::default();
        assert_eq!(failing.wait(&host(0), 0, 1), Err(0), "it does not fail");
        assert!(failing.begin(&host(0), 1) && failing.begin(&host(1), 1));
        (0..WAITING).for_each(|message| assert_eq!(failing.wait(&host(0), message, 1), Ok(())));
        assert_eq!(failing.wait(&host(0), 7, 1), Err(7));
        assert_eq!(failing.wait(&host(1), 8, BYTES), Err(8));
        assert_eq!(failing.wait(&host(1), 9, BYTES - WAITING - 2), Ok(()));
        assert_eq!((failing.next(&host(0), false), failing.next(&host(0), true)), (Some(0), Some(1)));
        assert_eq!((failing.next(&host(1), true), failing.next(&host(1), true)), (Some(9), None));
        assert!(!failing.has(&host(1)) && failing.has(&host(0)) && !failing.wake(&host(0), 1));
        while failing.next(&host(0), false).is_some() {}
        assert_eq!((failing.bytes, failing.hosts.len()), (0, 1));
        assert!(failing.wake(&host(0), 1) && !failing.wake(&host(0), 1), "one at a time");
        assert!((1..HOSTS).all(|number| failing.begin(&host(number), 1)) && !failing.begin(&host(HOSTS), 1));
        // Of servers of which none is tried, one makes room.
        assert_eq!(failing.next(&host(0), false), None);
        assert!(failing.begin(&host(HOSTS), 1) && !failing.has(&host(0)));
        // Messages that are tried count, too.
        assert_eq!(failing.next(&host(1), false), None);
        assert!(!failing.wake(&host(1), BYTES) && failing.wake(&host(1), BYTES - (HOSTS - 1)));
        assert_eq!((failing.wait(&host(1), 3, 1), failing.begin(&host(2), 1)), (Err(3), false));
    }
}
