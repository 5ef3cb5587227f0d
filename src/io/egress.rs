//! Decides which addresses sinks may send requests to, and which websockets may be dialled.
//!
//! Services often trust everything on the same machine, and clouds provide credentials at link-local addresses. A rule
//! that comes over the network, or a URL made from messages, must not reach those unless `basic.egressAllow` names the
//! address. A host name is judged by the address that it is connected to, and so is a redirect. Hosts in the rule files
//! of `plutino run` belong to the operator and are allowed.
//!
//! A websocket may be dialled on this machine unless `basic.dialLoopback` is false: peers on the same machine are
//! common, and a handshake is a GET whose response is not shown. A redirect from another machine to this one is
//! refused.
//!
//! This module does not know what is sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The addresses that may be reached, besides ordinary ones.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    allowed: Arc<[Allowed]>,
    /// whether the hosts in rules belong to the operator, and are allowed
    trusts_rules: bool,
    /// whether a websocket on this machine needs an entry
    guards_loopback: bool,
}

/// An entry of `basic.egressAllow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    target: Target,
    /// `None`: any
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Any,
    /// all addresses that begin with the same bits
    Network(IpAddr, u8),
    /// a host name in lower case; `.example` matches all names with this ending
    Host(String),
}

/// The destination of a request.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'d> {
    /// the host as in the URL; IPv6 addresses without brackets
    pub host: &'d str,
    pub port: u16,
    /// the rule names the host, rather than a message or a redirect
    pub written: bool,
}

/// A forbidden address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{host} is an address of this machine or a link-local one: add it to basic.egressAllow")]
pub struct EgressError {
    /// the host, and its address if that differs
    pub host: String,
}

impl Allowed {
    /// Parses an entry: `*`, an address, a network such as `127.0.0.0/8`, a host name or `*.example`, each with an
    /// optional `:port`. `None` if it is none of these.
    pub fn parse(entry: &str) -> Option<Allowed> {
        let entry = entry.trim().to_ascii_lowercase();
        let whole = |target| Some(Allowed { target, port: None });
        if let Some(network) = network(&entry) {
            return whole(network);
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0)?)),
            None => (entry.as_str(), None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let target = network(host).or_else(|| name(host))?;
        Some(Allowed { target, port })
    }

    fn allows(&self, host: &str, port: u16, address: IpAddr) -> bool {
        let target = match &self.target {
            Target::Any => true,
            Target::Network(network, bits) => holds(*network, *bits, address),
            Target::Host(name) if name.starts_with('.') => host.ends_with(name.as_str()),
            Target::Host(name) => host == name || (name == "localhost" && address.is_loopback()),
        };
        target && self.port.is_none_or(|allowed| allowed == port)
    }
}

fn network(text: &str) -> Option<Target> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits <= most).then(|| Target::Network(address, bits.unwrap_or(most)))
}

fn name(text: &str) -> Option<Target> {
    if text == "*" {
        return Some(Target::Any);
    }
    let inner = text.strip_prefix('*').unwrap_or(text);
    let fits = !inner.is_empty() && inner.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    (fits && (inner == text || inner.starts_with('.'))).then(|| Target::Host(inner.to_owned()))
}

fn holds(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    match (network, plain(address)) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let differ = network.to_bits() ^ address.to_bits();
            differ.leading_zeros() >= u32::from(bits)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let differ = network.to_bits() ^ address.to_bits();
            differ.leading_zeros() >= u32::from(bits)
        }
        _ => false,
    }
}

/// The IPv4 address that an IPv6 address represents, if any.
fn plain(address: IpAddr) -> IpAddr {
    /// NAT64 (RFC 6052)
    const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
    let IpAddr::V6(long) = address else { return address };
    let ends_with = Ipv4Addr::from_bits(long.to_bits() as u32);
    match long.segments() {
        // Mapped, translated (RFC 2765), and by NAT64.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => ends_with.into(),
        _ if long.to_bits() >> 32 == NAT64.to_bits() >> 32 => ends_with.into(),
        // 6to4 (RFC 3056).
        [0x2002, ..] => Ipv4Addr::from_bits((long.to_bits() >> 80) as u32).into(),
        // Compatible (RFC 4291); `::` and `::1` are not.
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => ends_with.into(),
        _ => address,
    }
}

/// Further addresses at which clouds provide credentials: Alibaba, Azure, Oracle, and Amazon over IPv6.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether an address belongs to this machine, is link-local, or is one of a cloud's metadata addresses.
fn is_guarded(address: IpAddr) -> bool {
    let address = plain(address);
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_link_local() || address.octets()[0] == 0 || address.is_broadcast()
        }
        IpAddr::V6(address) => address.is_loopback() || address.is_unspecified() || address.is_unicast_link_local(),
    }
}

impl Egress {
    /// Allows these entries.
    pub fn new(allowed: &[Allowed]) -> Egress {
        Egress { allowed: allowed.into(), ..Egress::default() }
    }

    /// Applies `basic.dialLoopback`.
    #[must_use]
    pub fn dialling_loopback(self, dials: bool) -> Egress {
        Egress { guards_loopback: !dials, ..self }
    }

    /// Allows the hosts that rules name, because they belong to the operator.
    #[must_use]
    pub fn trusting_rules(self) -> Egress {
        Egress { trusts_rules: true, ..self }
    }

    /// Whether a host that is an address, or a name of this machine, may be reached. Other names are checked when their
    /// addresses are known.
    ///
    /// # Errors
    /// [`EgressError`]
    pub fn check_host(&self, to: Destination<'_>) -> Result<(), EgressError> {
        literal(to.host).map_or(Ok(()), |address| self.check(to, address, false))
    }

    /// Whether this address of a host may be reached. `own`: it is an address of this machine.
    ///
    /// # Errors
    /// [`EgressError`]
    pub fn check(&self, to: Destination<'_>, address: IpAddr, own: bool) -> Result<(), EgressError> {
        if !(own || is_guarded(address)) || (self.trusts_rules && to.written) {
            return Ok(());
        }
        let host = to.host.to_ascii_lowercase();
        if self.allowed.iter().any(|allowed| allowed.allows(&host, to.port, address)) {
            return Ok(());
        }
        let host = match to.host.parse::<IpAddr>() {
            Ok(_) => to.host.to_owned(),
            Err(_) => format!("{} ({address})", to.host),
        };
        Err(EgressError { host })
    }
}

impl Egress {
    /// Whether a websocket may be dialled at this address of a host. Returns whether the address is on this machine;
    /// `own` as in [`Egress::check`]. `from_here`: the dial is not a redirect from another machine.
    ///
    /// # Errors
    /// [`EgressError`]
    pub fn check_dial(
        &self,
        to: Destination<'_>,
        address: IpAddr,
        own: bool,
        from_here: bool,
    ) -> Result<bool, EgressError> {
        let here = own || is_here(address);
        if here && from_here && !self.guards_loopback {
            return Ok(here);
        }
        self.check(to, address, own).map(|()| here)
    }

    /// Checks a host that is written as an address, or that names this machine. Other names are checked when they are
    /// resolved.
    ///
    /// # Errors
    /// [`EgressError`]
    pub fn check_dial_host(&self, to: Destination<'_>, from_here: bool) -> Result<(), EgressError> {
        literal(to.host).map_or(Ok(()), |address| self.check_dial(to, address, false, from_here).map(drop))
    }

    /// Whether the response of a peer may be shown to users of the API. A response from this machine may be meant for
    /// others.
    pub fn shows_answers(&self, here: bool) -> bool {
        self.trusts_rules || !here
    }
}

/// The address that a host represents without a lookup.
fn literal(host: &str) -> Option<IpAddr> {
    host.parse().ok().or_else(|| is_localhost(host).then_some(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

/// Whether an address always leads to this machine.
pub(in crate::io) fn is_here(address: IpAddr) -> bool {
    let address = plain(address);
    address.is_loopback() || address.is_unspecified()
}

fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allowed: &[&str], host: &str, address: &str) -> bool {
        let allowed: Vec<Allowed> = allowed.iter().map(|entry| Allowed::parse(entry).expect(entry)).collect();
        let to = Destination { host, port: 80, written: true };
        Egress::new(&allowed).check(to, address.parse().expect("an address"), false).is_ok()
    }

    #[test]
    fn this_machine_and_its_link_are_not_reached() {
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "::1",
            "::",
            "fe80::1",
            "::ffff:127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::5",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
        ] {
            assert!(!check(&[], "example.org", address), "{address}");
            assert!(check(&["*"], "example.org", address), "{address}");
        }
        for address in ["10.0.0.1", "192.168.1.1", "93.184.216.34", "2001:db8::1", "fd00::1", "2002:5db8:d822::1"] {
            assert!(check(&[], "example.org", address), "{address}");
        }
    }

    #[test]
    fn entries_allow_what_they_name() {
        for (entry, host, address, allowed) in [
            ("127.0.0.1", "127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "localhost", "127.0.0.1", true),
            ("127.0.0.1", "x", "127.0.0.2", false),
            ("127.0.0.0/8", "x", "127.0.0.2", true),
            ("127.0.0.0/8", "x", "::ffff:127.0.0.2", true),
            ("127.0.0.1:80", "x", "127.0.0.1", true),
            ("127.0.0.1:81", "x", "127.0.0.1", false),
            ("localhost", "localhost", "127.0.0.1", true),
            ("localhost", "127.0.0.1", "127.0.0.1", true),
            ("localhost:80", "LOCALHOST", "::1", true),
            ("hooks.example", "Hooks.Example", "127.0.0.1", true),
            ("hooks.example", "example", "127.0.0.1", false),
            ("*.example", "a.b.example", "127.0.0.1", true),
            ("*.example", "example", "127.0.0.1", false),
            ("[::1]:80", "x", "::1", true),
            ("::1", "x", "::1", true),
            ("fe80::/10", "x", "fe80::2", true),
            ("0.0.0.0/0", "x", "169.254.169.254", true),
            ("*:80", "x", "127.0.0.1", true),
        ] {
            assert_eq!(check(&[entry], host, address), allowed, "{entry} {host} {address}");
        }
        for entry in ["", "a b", "127.0.0.0/33", "http://x", "x:0", "x:y", "*x", "[::1"] {
            assert_eq!(Allowed::parse(entry), None, "{entry}");
        }
    }

    #[test]
    fn websockets_reach_this_machine_from_here() {
        let dial = |egress: &Egress, host: &str, from_here| {
            egress.check_dial_host(Destination { host, port: 80, written: true }, from_here).is_ok()
        };
        let usual = Egress::default();
        for host in ["127.0.0.1", "localhost", "::1", "0.0.0.0", "::ffff:127.0.0.1"] {
            assert_eq!((dial(&usual, host, true), dial(&usual, host, false)), (true, false), "{host}");
            assert!(!dial(&Egress::default().dialling_loopback(false), host, true), "{host}");
            assert!(dial(&Egress::default().trusting_rules(), host, false), "{host}");
        }
        for host in ["169.254.169.254", "fe80::1", "100.100.100.200", "::ffff:169.254.169.254", "0.1.2.3"] {
            assert!(!dial(&usual, host, true), "{host}");
            let allowed = Allowed::parse("*:80").expect("an entry");
            assert!(dial(&Egress::new(&[allowed]), host, false), "{host}");
        }
        assert!(dial(&usual, "10.0.0.1", false) && dial(&usual, "feed.example", false));
        // Its own address on a network also belongs to this machine.
        let (own, to) = ("10.0.0.1".parse().expect("an address"), Destination { host: "h", port: 80, written: false });
        assert_eq!(usual.check_dial(to, own, true, true), Ok(true));
        assert!(usual.check_dial(to, own, true, false).is_err());
        assert_eq!(usual.check_dial(to, own, false, false), Ok(false));
    }

    #[test]
    fn what_an_operator_wrote_is_reached() {
        let egress = Egress::default().trusting_rules();
        let address = "127.0.0.1".parse().expect("an address");
        let to = |written| Destination { host: "127.0.0.1", port: 1, written };
        assert!(egress.check(to(true), address, false).is_ok());
        assert!(egress.check(to(false), address, false).is_err());
        let error = Egress::default().check_host(Destination { host: "localhost", port: 1, written: true });
        let text =
            "localhost (127.0.0.1) is an address of this machine or a link-local one: add it to basic.egressAllow";
        assert_eq!(error.expect_err("it is this machine").to_string(), text);
        assert!(Egress::default().check_host(Destination { host: "a.example", port: 1, written: true }).is_ok());
        // Its own address on a network also belongs to this machine.
        let own = "10.0.0.1".parse().expect("an address");
        assert!(Egress::default().check(to(true), own, true).is_err());
    }
}
