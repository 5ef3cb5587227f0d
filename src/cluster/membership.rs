//! The processes of a cluster, and which of them is this one.

use std::net::{IpAddr, Ipv4Addr};

use super::ClusterError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// the addresses on which the processes listen for each other, `host:port`, in the order of their numbers
    pub hosts: Vec<String>,
    /// the number of this process
    pub process: usize,
    /// data threads of each process
    pub workers: usize,
}

impl Membership {
    /// Parses a list of addresses, separated by commas.
    ///
    /// # Errors
    /// [`ClusterError`] for an invalid argument.
    pub fn new(hosts: &str, process: usize, workers: usize) -> Result<Membership, ClusterError> {
        let hosts: Vec<String> = hosts.split(',').map(|host| host.trim().to_owned()).collect();
        for (place, host) in hosts.iter().enumerate() {
            let port = host.rsplit_once(':').filter(|(name, _)| !name.is_empty()).map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) {
                return Err(ClusterError::Host(host.clone()));
            }
            if hosts[..place].contains(host) {
                return Err(ClusterError::Twice(host.clone()));
            }
        }
        if hosts.len() == 1 {
            return Err(ClusterError::Single);
        }
        if process >= hosts.len() {
            return Err(ClusterError::Process { process, hosts: hosts.len() });
        }
        Ok(Membership { hosts, process, workers })
    }

    /// The number of workers in all processes.
    pub fn peers(&self) -> usize {
        self.hosts.len() * self.workers
    }

    /// The number of the first worker of this process among all workers.
    pub fn first_worker(&self) -> usize {
        self.process * self.workers
    }

    /// The address of this process.
    pub fn host(&self) -> &str {
        &self.hosts[self.process]
    }
}

/// Whether an address cannot be reached from the internet.
pub(super) fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local() || is_shared(ip),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Whether the address is in 100.64.0.0/10, which carriers and many overlay networks use.
fn is_shared(ip: Ipv4Addr) -> bool {
    matches!(ip.octets(), [100, 64..=127, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_hosts_is_checked() {
        let membership = Membership::new("a:1, b:2,[::1]:3", 1, 4).expect("it is right");
        assert_eq!((membership.host(), membership.peers(), membership.first_worker()), ("b:2", 12, 4));
        let wrong = |hosts, process| Membership::new(hosts, process, 1).expect_err("it is wrong").to_string();
        assert_eq!(wrong("a:1,b", 0), "--hosts: \"b\" is not an address: expected host:port");
        assert_eq!(wrong("a:1,:2", 0), "--hosts: \":2\" is not an address: expected host:port");
        assert_eq!(wrong("a:1,b:0", 0), "--hosts: \"b:0\" is not an address: expected host:port");
        assert_eq!(wrong("a:1,a:1", 0), "--hosts names a:1 twice: each process needs an address of its own");
        assert!(wrong("a:1", 0).starts_with("--hosts names a single process"));
        assert_eq!(wrong("a:1,b:2", 2), "--process 2: --hosts names 2 processes, numbered from 0 to 1");
    }

    #[test]
    fn private_addresses_are_known() {
        let private = |text: &str| is_private(text.parse().expect("an address"));
        for text in ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "100.100.0.1", "::1", "fd00::1", "fe80::1"] {
            assert!(private(text), "{text}");
        }
        for text in ["0.0.0.0", "::", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(!private(text), "{text}");
        }
    }
}
