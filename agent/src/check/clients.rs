//! Who is connected to a target now: processes of this host, such as a proxy in front of it, or others.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
};

use procfs::{
    net::{TcpNetEntry, TcpState},
    process::Process,
};

use crate::probe::discover;

/// Programs that hand on other clients' requests. A sign, no proof: which it is decides the advice alone.
const PROXIES: [&str; 13] = [
    "apache2",
    "caddy",
    "cloudflared",
    "docker-proxy",
    "envoy",
    "h2o",
    "haproxy",
    "hitch",
    "httpd",
    "nginx",
    "stunnel4",
    "traefik",
    "varnishd",
];

/// The connections of a target, by who is at the other end.
#[derive(Debug, Default)]
pub struct Clients {
    /// Of programs on this host, by name.
    pub here: BTreeMap<String, usize>,
    /// All others.
    pub elsewhere: usize,
}

impl Clients {
    /// Of the connections to `ports` in the network namespace of `pid`. Costs a look at the descriptors of all processes
    /// where one of them comes from this host.
    pub fn of(pid: u32, ports: &[u16]) -> Self {
        let Some(process) = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok()) else {
            return Self::default();
        };
        let tables = [process.tcp(), process.tcp6()];
        let entries = || {
            let entries = tables.iter().flatten().flatten();
            entries.filter(|entry| entry.state == TcpState::Established)
        };
        let by_ends: HashMap<(SocketAddr, SocketAddr), u64> =
            entries().map(|entry| (ends(entry), entry.inode)).collect();
        let mut found = Self::default();
        let mut sockets: HashSet<u64> = HashSet::new();
        for entry in entries().filter(|entry| ports.contains(&entry.local_address.port())) {
            let (local, remote) = ends(entry);
            match by_ends.get(&(remote, local)) {
                Some(socket) => {
                    sockets.insert(*socket);
                }
                None => found.elsewhere += 1,
            }
        }
        found.add_owners(sockets);
        found
    }

    /// Those of its programs on this host that are known as proxies.
    pub fn proxies(&self) -> impl Iterator<Item = &str> {
        self.here.keys().map(String::as_str).filter(|name| PROXIES.contains(name))
    }

    fn add_owners(&mut self, mut sockets: HashSet<u64>) {
        for pid in discover::all_pids() {
            if sockets.is_empty() {
                return;
            }
            let held = discover::sockets(pid);
            let before = sockets.len();
            sockets.retain(|socket| !held.contains(socket));
            if sockets.len() < before {
                let name = discover::name(pid).unwrap_or_else(|| "a process that is gone".to_owned());
                *self.here.entry(name).or_default() += before - sockets.len();
            }
        }
        // Their owners went meanwhile, or are not for us to see.
        self.elsewhere += sockets.len();
    }
}

/// Both ends of a connection; IPv4 is IPv4 on a socket of IPv6, too.
fn ends(entry: &TcpNetEntry) -> (SocketAddr, SocketAddr) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    (canonical(entry.local_address), canonical(entry.remote_address))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn clients_on_this_host_are_known_by_their_program() {
        // A socket of IPv6 that takes IPv4, where there is IPv6.
        let listener = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let _clients: Vec<TcpStream> =
            (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
        let _served: Vec<_> = (0..3).map(|_| listener.accept().unwrap()).collect();
        let found = Clients::of(std::process::id(), &[port]);
        let ourselves = discover::name(std::process::id()).unwrap();
        assert_eq!((found.here, found.elsewhere), (BTreeMap::from([(ourselves, 3)]), 0));
        let others = Clients::of(std::process::id(), &[]);
        assert_eq!((others.here.len(), others.elsewhere), (0, 0));
    }

    #[test]
    fn proxies_are_told_from_other_clients() {
        let here = ["curl", "haproxy", "nginx-exporter"].map(|name| (name.to_owned(), 1));
        let clients = Clients { here: here.into(), elsewhere: 2 };
        assert_eq!(clients.proxies().collect::<Vec<_>>(), ["haproxy"]);
    }
}
