//! Servers of static files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Site, filler, found};
use crate::client::Address;
use crate::process::ending_with_us;

/// Sizes of the files below `/blob`, `/chunked` and, once stored, `/stored`.
pub const FILE_SIZES: [usize; 9] = [0, 1, 999, 1000, 4096, 65_536, 300_000, 1_000_000, 5_000_000];
/// The path and the length of a file of nothing but zeros, which takes no space.
pub const SPARSE_FILE: (&str, u64) = ("/sparse", 1 << 30);

pub(super) fn nginx(site: &Site<'_>) -> Command {
    write_files(&site.dir.join("www"));
    let config = site.config("nginx.conf", &[("listen", &site.bind("unix:"))]);
    let mut command = ending_with_us(found("/usr/sbin/nginx"));
    command.arg("-p").arg(site.dir).arg("-c").arg(config).arg("-e").arg(site.dir.join("error.log"));
    command
}

pub(super) fn apache(site: &Site<'_>) -> Command {
    write_files(&site.dir.join("www"));
    let config = site.config("apache.conf", &[("listen", &site.bind(""))]);
    let mut command = ending_with_us(found("/usr/sbin/apache2"));
    command.arg("-DFOREGROUND").arg("-f").arg(config);
    command
}

pub(super) fn caddy(site: &Site<'_>) -> Command {
    write_files(&site.dir.join("www"));
    // For whatever host a request names.
    let (at, bind) = match site.address {
        Address::Tcp(address) => (format!("http://:{}", address.port()), address.ip().to_string()),
        Address::Unix(path) => ("http://".to_owned(), format!("unix/{}", path.display())),
    };
    let config = site.config("Caddyfile", &[("site", &at), ("bind", &bind)]);
    let mut command = ending_with_us(found("/usr/bin/caddy"));
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(config).env("HOME", site.dir);
    command
}

fn write_files(www: &Path) {
    let write = |path: PathBuf, bytes: &[u8]| {
        fs::create_dir_all(path.parent().expect("it is below www")).expect("www can be written to");
        fs::write(path, bytes).expect("www can be written to");
    };
    write(www.join("items"), b"[]\n");
    for size in FILE_SIZES {
        let bytes = filler(size);
        write(www.join("blob").join(size.to_string()), &bytes);
        write(www.join("chunked").join(size.to_string()), &bytes);
    }
    fs::create_dir_all(www.join("stored")).expect("www can be written to");
    let sparse = File::create(www.join(SPARSE_FILE.0.trim_start_matches('/')));
    sparse.and_then(|file| file.set_len(SPARSE_FILE.1)).expect("a sparse file takes no space");
}
