//! Proxies before an app on the same host.

use std::process::Command;

use super::{Site, found};
use crate::client::Address;
use crate::process::ending_with_us;

pub(super) fn haproxy(site: &Site<'_>) -> Command {
    let config = site.config("haproxy.cfg", &[("listen", &site.bind("")), ("behind", &behind(site))]);
    let mut command = ending_with_us(found("/usr/sbin/haproxy"));
    command.arg("-db").arg("-f").arg(config);
    command
}

fn behind(site: &Site<'_>) -> String {
    match site.behind {
        Some(Address::Tcp(address)) => address.to_string(),
        other => panic!("a proxy is before an app on TCP, not {other:?}"),
    }
}
