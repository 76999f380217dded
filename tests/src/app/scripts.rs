//! Servers in Ruby and PHP.

use std::process::Command;

use super::{Site, files, found};
use crate::client::Address;
use crate::process::ending_with_us;

pub(super) fn puma(site: &Site<'_>) -> Command {
    let bind = match site.address {
        Address::Tcp(address) => format!("tcp://{address}"),
        Address::Unix(path) => format!("unix://{}", path.display()),
    };
    let mut command = ending_with_us(found("/usr/bin/puma"));
    command.args([
        "--bind",
        &bind,
        "--workers",
        "2",
        "--threads",
        "4:4",
        "--environment",
        "production",
        "app.ru",
    ]);
    command
}

pub(super) fn php(site: &Site<'_>) -> Command {
    let mut command = ending_with_us(found("/usr/bin/php"));
    command.env("PHP_CLI_SERVER_WORKERS", "2").args(["-S", &site.bind(""), "app.php"]);
    command
}

pub(super) fn apache_php(site: &Site<'_>) -> Command {
    let mut command = files::apache(site);
    command.args(["-D", "PHP"]);
    command
}
