//! Limits for clients of the data server: in total, per address, and in their handshakes.
//!
//! Connections are always accepted at once. If there are too many handshakes, the oldest one of the address with the
//! most is closed: clients that connect and send nothing cannot keep out others, whose handshakes take milliseconds.
//! After its handshake a client gets a [`Seat`] or is refused.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::gate::Refusal;
use crate::memory::{self, Pressure};
use crate::sync::locked;

/// The most handshakes at a time.
const HANDSHAKES: usize = 1024;

/// Descriptors reserved for the REST API, dialled connections and files, if the process may have many.
const RESERVE: usize = 256;

/// The limits of a data server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// connected clients
    connections: usize,
    /// connected clients of one address
    per_address: usize,
    handshakes: usize,
}

impl Limits {
    /// The limits by the settings (0: no limit) and by the number of descriptors of this process.
    pub fn new(connections: usize, per_address: usize, descriptors: Option<usize>) -> Limits {
        let unlimited = |limit: usize| if limit == 0 { usize::MAX } else { limit };
        let free = descriptors.map_or(usize::MAX, |all| all - RESERVE.min(all / 3));
        let handshakes = HANDSHAKES.min(free / 4).max(1);
        Limits {
            connections: unlimited(connections).min((free - handshakes.min(free)).max(1)),
            per_address: unlimited(per_address),
            handshakes,
        }
    }
}

/// The most open files and sockets of this process, if the system tells it.
pub(super) fn descriptors() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The clients of a data server.
pub(super) struct Admission {
    limits: Limits,
    present: Mutex<Present>,
}

#[derive(Default)]
struct Present {
    /// handshakes by address, in the order of arrival; dropping the sender ends one
    arriving: HashMap<IpAddr, BTreeMap<u64, oneshot::Sender<()>>>,
    handshakes: usize,
    next: u64,
    /// connected clients by address
    seated: HashMap<IpAddr, usize>,
    connections: usize,
}

impl Admission {
    pub fn new(limits: Limits) -> Arc<Admission> {
        Arc::new(Admission { limits, present: Mutex::default() })
    }

    /// Starts the handshake of a client. If there are too many, another one is ended.
    pub fn arrive(self: &Arc<Self>, from: IpAddr) -> Arrival {
        let address = network(from);
        let (ends, evicted) = oneshot::channel();
        let mut present = locked(&self.present);
        if present.handshakes >= self.limits.handshakes {
            present.evict();
        }
        let id = present.next;
        present.next += 1;
        present.handshakes += 1;
        present.arriving.entry(address).or_default().insert(id, ends);
        Arrival { admission: self.clone(), address, id, evicted }
    }

    /// Ends the handshake to be closed first, if any, to free its descriptor.
    pub fn make_way(&self) {
        locked(&self.present).evict();
    }

    /// Takes a seat for a client from `from`.
    ///
    /// # Errors
    /// [`Refusal::Connections`] or [`Refusal::Address`] if no seat is free.
    pub fn seat(self: &Arc<Self>, from: IpAddr) -> Result<Seat, Refusal> {
        let address = network(from);
        let mut present = locked(&self.present);
        if memory::pressure() >= Pressure::Clients {
            memory::count(Pressure::Clients);
            return Err(Refusal::Connections);
        }
        if present.connections >= self.limits.connections {
            return Err(Refusal::Connections);
        }
        let seated = present.seated.entry(address).or_default();
        if *seated >= self.limits.per_address {
            return Err(Refusal::Address);
        }
        *seated += 1;
        present.connections += 1;
        Ok(Seat { admission: self.clone(), address })
    }
}

impl Present {
    fn evict(&mut self) {
        let most = self.arriving.iter_mut().max_by_key(|(_, handshakes)| handshakes.len());
        if let Some((address, handshakes)) = most {
            let address = *address;
            handshakes.pop_first();
            self.left(address);
        }
    }

    /// Removes a handshake from this address.
    fn left(&mut self, address: IpAddr) {
        self.handshakes -= 1;
        if self.arriving.get(&address).is_some_and(BTreeMap::is_empty) {
            self.arriving.remove(&address);
        }
    }
}

/// A client in its handshake.
pub(super) struct Arrival {
    admission: Arc<Admission>,
    address: IpAddr,
    id: u64,
    evicted: oneshot::Receiver<()>,
}

impl Arrival {
    /// Completes when the handshake must end to make room for another one.
    pub async fn evicted(&mut self) {
        let _ = (&mut self.evicted).await;
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut present = locked(&self.admission.present);
        let there = present.arriving.get_mut(&self.address).and_then(|handshakes| handshakes.remove(&self.id));
        if there.is_some() {
            present.left(self.address);
        }
    }
}

/// The seat of a connected client, free again when dropped.
pub(super) struct Seat {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut present = locked(&self.admission.present);
        present.connections -= 1;
        if let Some(seated) = present.seated.get_mut(&self.address) {
            *seated -= 1;
            if *seated == 0 {
                present.seated.remove(&self.address);
            }
        }
    }
}

/// The unit that counts as one address: for IPv6 the network of 64 bits, since one host can use all of it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn gone(arrival: &mut Arrival) -> bool {
        !matches!(arrival.evicted.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    #[test]
    fn descriptors_stay_free() {
        let unlimited =
            Limits { connections: usize::MAX - HANDSHAKES, per_address: usize::MAX, handshakes: HANDSHAKES };
        assert_eq!(Limits::new(0, 0, None), unlimited);
        assert_eq!(Limits::new(0, 0, Some(300)), Limits { connections: 150, per_address: usize::MAX, handshakes: 50 });
        assert_eq!(Limits::new(40, 3, Some(1024)), Limits { connections: 40, per_address: 3, handshakes: 192 });
        let least = Limits::new(0, 0, Some(0));
        assert!(least.connections >= 1 && least.handshakes >= 1);
        assert!(!cfg!(target_os = "linux") || descriptors().is_some_and(|all| all > 0));
    }

    #[test]
    fn the_oldest_handshake_of_the_busiest_address_makes_way() {
        let admission = Admission::new(Limits { connections: 9, per_address: 9, handshakes: 4 });
        let mut good = admission.arrive(address(1));
        let mut bad: Vec<Arrival> = (0..3).map(|_| admission.arrive(address(2))).collect();
        assert!(!gone(&mut good) && !bad.iter_mut().any(gone));
        let _more = admission.arrive(address(2));
        assert!(gone(&mut bad[0]) && !gone(&mut bad[1]) && !gone(&mut good));
        drop(bad);
        let _again: Vec<Arrival> = (0..2).map(|_| admission.arrive(address(3))).collect();
        assert!(!gone(&mut good));
        drop(good);
        assert_eq!(locked(&admission.present).handshakes, 3);
    }

    #[test]
    fn seats_are_limited_and_given_back() {
        let admission = Admission::new(Limits { connections: 3, per_address: 2, handshakes: 1 });
        let one = admission.seat(address(1));
        let two = admission.seat(address(1));
        assert!(one.is_ok() && two.is_ok());
        assert!(matches!(admission.seat(address(1)), Err(Refusal::Address)));
        let six = |last| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        let three = admission.seat(six(1));
        assert!(three.is_ok());
        assert!(matches!(admission.seat(six(2)), Err(Refusal::Connections)));
        drop(one);
        let four = admission.seat(six(2));
        assert!(four.is_ok());
        drop((two, three, four));
        let present = locked(&admission.present);
        assert!(present.connections == 0 && present.seated.is_empty());
    }
}
