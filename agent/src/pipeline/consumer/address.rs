//! The client's address: the other end of the connection, or what trusted proxies say who stands in front of it.

use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use httparse::Header;

/// Addresses of one request that are looked at, nearest first. Farther ones are as good as none.
const MAX_HOPS: usize = 32;

/// Where proxies write the address of whom they serve. One of them and no other is asked: what a proxy does not write
/// itself, it may pass on from a client who lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// RFC 7239.
    Forwarded,
    XForwardedFor,
    /// One address, of the client that the nearest proxy has settled on.
    XRealIp,
}

impl Forwarding {
    pub const fn header(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::XForwardedFor => "x-forwarded-for",
            Self::XRealIp => "x-real-ip",
        }
    }

    /// In any case.
    pub fn of_header(name: &str) -> Option<Self> {
        [Self::Forwarded, Self::XForwardedFor, Self::XRealIp]
            .into_iter()
            .find(|it| it.header().eq_ignore_ascii_case(name))
    }
}

/// The address of the client behind `proxies` proxies that can be trusted, of which the nearest is `peer`.
///
/// Each proxy appends the address of whom it serves, so the client's is the one that the farthest trusted proxy has
/// written: the `proxies`th from the end. When there are fewer, the first of them: the request took a shorter way. None
/// when that one is no address (`unknown`, `_hidden`), or when there is neither header nor peer.
pub fn client(
    fields: &[Header<'_>],
    peer: Option<SocketAddr>,
    by: Forwarding,
    proxies: usize,
) -> Option<IpAddr> {
    let peer = peer.map(|peer| peer.ip().to_canonical());
    let mut farthest = None;
    let hops =
        fields.iter().rev().filter(|field| field.name.eq_ignore_ascii_case(by.header())).flat_map(|field| {
            let elements = field.value.rsplit(|&byte| byte == b',');
            elements.map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
        });
    let proxies = if by == Forwarding::XRealIp { proxies.min(1) } else { proxies };
    for element in hops.take(proxies.min(MAX_HOPS)) {
        farthest = Some(element);
    }
    match (farthest, by) {
        (None, _) => peer,
        (Some(element), Forwarding::Forwarded) => forwarded_for(element).and_then(parse),
        (Some(element), Forwarding::XForwardedFor | Forwarding::XRealIp) => parse(element),
    }
}

/// The `for` of one element of `Forwarded`.
fn forwarded_for(element: &[u8]) -> Option<&[u8]> {
    element.split(|&byte| byte == b';').find_map(|pair| {
        let at = pair.iter().position(|&byte| byte == b'=')?;
        let (name, value) = pair.split_at(at);
        name.trim_ascii().eq_ignore_ascii_case(b"for").then(|| value.get(1..).unwrap_or_default())
    })
}

/// An address as proxies write it: in quotes or not, with a port or not, IPv6 in brackets or not.
fn parse(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text.trim_ascii()).ok()?;
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        is_port(port).then(|| address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)).flatten()
    } else if let Ok(address) = text.parse::<IpAddr>() {
        Some(address)
    } else {
        text.parse::<SocketAddr>().ok().map(|address| address.ip())
    };
    address.map(|address| address.to_canonical())
}

/// RFC 7239 section 6: digits, or an obfuscated one.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| !port.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_of(headers: &[(&str, &str)], by: Forwarding, proxies: usize) -> Option<String> {
        let fields: Vec<_> =
            headers.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect();
        let peer = "10.0.0.9:5000".parse().ok();
        client(&fields, peer, by, proxies).map(|address| address.to_string())
    }

    #[test]
    fn only_what_trusted_proxies_wrote_counts() {
        let check = |proxies, headers: &[(&str, &str)], want: Option<&str>| {
            let client = client_of(headers, Forwarding::XForwardedFor, proxies);
            assert_eq!(client.as_deref(), want, "{proxies} of {headers:?}");
        };
        let lie = [("X-Forwarded-For", "6.6.6.6, 1.1.1.1, 2.2.2.2")];
        check(0, &lie, Some("10.0.0.9"));
        check(1, &lie, Some("2.2.2.2"));
        check(2, &lie, Some("1.1.1.1"));
        check(3, &lie, Some("6.6.6.6"));
        check(9, &lie, Some("6.6.6.6"));
        check(1, &[], Some("10.0.0.9"));
        check(1, &[("X-Forwarded-For", "")], Some("10.0.0.9"));
        check(1, &[("X-Real-IP", "6.6.6.6"), ("Forwarded", "for=6.6.6.6")], Some("10.0.0.9"));
        check(1, &[("X-Forwarded-For", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")], Some("2.2.2.2"));
        check(2, &[("X-Forwarded-For", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")], Some("1.1.1.1"));
        check(1, &[("X-Forwarded-For", "1.1.1.1, unknown")], None);
        check(1, &[("X-Forwarded-For", "1.1.1.1,,")], Some("1.1.1.1"));
        let many = ["1.1.1.1"; 3 * MAX_HOPS].join(",");
        check(usize::MAX, &[("X-Forwarded-For", &many)], Some("1.1.1.1"));
    }

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        let check = |by: Forwarding, value, want: Option<&str>| {
            assert_eq!(client_of(&[(by.header(), value)], by, 1).as_deref(), want, "{value}");
        };
        check(Forwarding::XForwardedFor, "1.2.3.4:567", Some("1.2.3.4"));
        check(Forwarding::XForwardedFor, "2001:DB8:0::1", Some("2001:db8::1"));
        check(Forwarding::XForwardedFor, "[2001:db8::1]:567", Some("2001:db8::1"));
        check(Forwarding::XForwardedFor, "::ffff:1.2.3.4", Some("1.2.3.4"));
        check(Forwarding::XForwardedFor, "1.2.3", None);
        check(Forwarding::XForwardedFor, "[1.2.3.4]", None);
        check(Forwarding::XForwardedFor, "alice", None);
        check(Forwarding::XRealIp, "1.2.3.4", Some("1.2.3.4"));
        check(Forwarding::Forwarded, "for=1.2.3.4;proto=https", Some("1.2.3.4"));
        check(Forwarding::Forwarded, "proto=https; For=\"[2001:db8::1]:567\"", Some("2001:db8::1"));
        check(Forwarding::Forwarded, "for=\"[2001:db8::1]:_x\"", Some("2001:db8::1"));
        check(Forwarding::Forwarded, "for=_hidden, for=1.1.1.1", Some("1.1.1.1"));
        check(Forwarding::Forwarded, "for=1.1.1.1, for=_hidden", None);
        check(Forwarding::Forwarded, "proto=https", None);
    }

    #[test]
    fn a_header_names_its_kind() {
        assert_eq!(Forwarding::of_header("X-Real-Ip"), Some(Forwarding::XRealIp));
        assert_eq!(Forwarding::of_header("Via"), None);
    }
}
