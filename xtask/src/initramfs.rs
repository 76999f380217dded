//! The file system that a virtual machine starts with: an archive in the "newc" format of cpio, as the kernel takes it
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const TRAILER: &str = "TRAILER!!!";

#[derive(Debug, Default)]
pub struct Initramfs {
    archive: Vec<u8>,
    /// Paths in it, without the first slash.
    paths: BTreeSet<String>,
}

impl Initramfs {
    /// Adds a program of this machine at `path`, with the shared libraries that it needs where it looks for them.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub fn add_program(&mut self, path: &str, program: &Path) -> Result<()> {
        self.add_file(path, &read(program)?);
        for library in libraries_of(program)? {
            self.add_file(&library, &read(Path::new(&library))?);
        }
        Ok(())
    }

    /// Adds a file that may be executed, unless it is there.
    pub fn add_file(&mut self, path: &str, content: &[u8]) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.add(&path[..end], DIRECTORY, &[]);
        }
        self.add(path, PROGRAM, content);
    }

    /// The whole archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.add(TRAILER, 0, &[]);
        self.archive
    }

    fn add(&mut self, path: &str, mode: u32, content: &[u8]) {
        if !self.paths.insert(path.to_owned()) {
            return;
        }
        let inode = self.paths.len();
        let (size, name_size) = (content.len(), path.len() + 1);
        // Owner, group, links, time; then device numbers around the length of the name, and no checksum.
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}\
             {0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
            0, 1
        );
        self.archive.extend_from_slice(header.as_bytes());
        self.archive.extend_from_slice(path.as_bytes());
        self.archive.push(0);
        self.align();
        self.archive.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.archive.resize(self.archive.len().next_multiple_of(4), 0);
    }
}

/// Files that the loader maps for a program: none for a static one.
pub fn libraries_of(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("{} lacks a library: {}", program.display(), missing.trim());
    }
    // `libc.so.6 => /lib/.../libc.so.6 (0x..)`, and for the loader itself `/lib64/ld-linux-x86-64.so.2 (0x..)`.
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.filter(|path| !path.ends_with(':')).map(str::to_owned).collect())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::Initramfs;

    #[test]
    fn files_come_after_their_directories_and_once() {
        let mut initramfs = Initramfs::default();
        initramfs.add_file("/lib/x86/libc.so", b"12345");
        initramfs.add_file("/lib/x86/libc.so", b"12345");
        initramfs.add_file("/init", b"");
        let archive = initramfs.finish();
        assert_eq!(archive.len() % 4, 0);
        let text = String::from_utf8(archive).unwrap();
        let names = ["\0lib\0", "\0lib/x86\0", "\0lib/x86/libc.so\0", "\0init\0", "\0TRAILER!!!\0"];
        let places = names.map(|name| {
            let name = &name[1..];
            assert_eq!(text.matches(&format!("00000000{name}")).count(), 1, "{name}");
            text.find(&format!("00000000{name}")).unwrap()
        });
        assert!(places.is_sorted(), "{places:?}");
        assert_eq!(text.matches("070701").count(), names.len());
    }

    #[test]
    fn header_says_how_long_name_and_content_are() {
        let mut initramfs = Initramfs::default();
        initramfs.add_file("ab", b"world");
        let text = String::from_utf8(initramfs.finish()).unwrap();
        let field = |index: usize| &text[6 + 8 * index..][..8];
        assert_eq!((field(1), field(6), field(11)), ("000081ed", "00000005", "00000003"));
        assert_eq!(&text[110..121], "ab\0\0\0\0world");
    }
}
