//! Go: a program carries the version of its compiler and the list of the modules that it was linked from, in the section
//! `.go.buildinfo` (Go's package `debug/buildinfo`; in this form since Go 1.18).
//!
//! ELF is read by hand, and only that of 64 bits in little endian: libraries for it trust the sizes in a file's headers.

use std::{collections::BTreeSet, fs::File, os::unix::fs::FileExt as _};

use super::{Facts, Software, only, version};

/// Module, the component's name in the message, and the hub's name for the framework.
const FRAMEWORKS: [(&str, &str, &str); 4] = [
    ("github.com/gin-gonic/gin", "gin", "go:gin"),
    ("github.com/go-chi/chi", "chi", "go:chi"),
    ("github.com/gofiber/fiber", "fiber", "go:fiber"),
    ("github.com/labstack/echo", "echo", "go:echo"),
];

const SECTION: &[u8] = b".go.buildinfo\0";
const MAGIC: &[u8] = b"\xff Go buildinf:";
/// Where the flags are, and where the first string begins.
const FLAGS: usize = 15;
const STRINGS: usize = 32;
/// The strings are in the section itself.
const INLINE: u8 = 2;
/// Around the list of modules is a mark of this many bytes, for those who look for it in memory.
const MARK: usize = 16;
/// A program has some dozens of sections.
const MOST_SECTIONS: usize = 1024;
/// Bytes of the sections' names, and of the section.
const LONGEST: usize = 256 * 1024;

/// None when it is no program in Go.
pub(super) fn software(facts: &Facts) -> Option<Software> {
    let info = section(&facts.root.file(&facts.exe)?)?;
    let (compiler, modules) = strings(&info)?;
    Some(linked(&compiler, &modules))
}

fn linked(compiler: &str, modules: &str) -> Software {
    let mut software = Software::default();
    let compiler = compiler.strip_prefix("go").and_then(|text| version(text.split(' ').next()?));
    software.components.extend(compiler.map(|version| ("go".to_owned(), version)));
    let mut clients = BTreeSet::new();
    for line in modules.lines() {
        let mut fields = line.split('\t');
        let (Some("dep"), Some(module), Some(found)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        // `github.com/labstack/echo/v4` is a later version of the same.
        let is_of = |path: &str| {
            module.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with("/v"))
        };
        let Some((_, name, client)) = FRAMEWORKS.iter().find(|(path, _, _)| is_of(path)) else { continue };
        let found = version(found.trim_start_matches('v'));
        software.components.extend(found.map(|version| ((*name).to_owned(), version)));
        clients.insert(*client);
    }
    software.client = only(clients).map(str::to_owned);
    software
}

/// Version of the compiler, and the list of modules.
fn strings(info: &[u8]) -> Option<(String, String)> {
    if !info.starts_with(MAGIC) || info.get(FLAGS)? & INLINE == 0 {
        return None;
    }
    let (compiler, rest) = string(info.get(STRINGS..)?)?;
    let (modules, _) = string(rest)?;
    let modules = modules.get(MARK..modules.len().saturating_sub(MARK)).unwrap_or_default();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Some((text(compiler), text(modules)))
}

/// A string with its length before it, in seven bits a byte, the lowest first; and what follows.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().take(4).position(|byte| byte & 0x80 == 0)?;
    let length = bytes[..=end].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
    bytes[end + 1..].split_at_checked(length)
}

/// The section, found by the ELF header (64 bytes: place, size and number of the section headers at 40, 58 and 60, the
/// number of the one for names at 62) and section headers (name, place and size at 0, 24 and 32).
fn section(file: &File) -> Option<Vec<u8>> {
    let header = read(file, 0, 64)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (size, number) = (usize::from(u16_at(&header, 58)?), usize::from(u16_at(&header, 60)?));
    if size < 64 || number > MOST_SECTIONS {
        return None;
    }
    let headers = read(file, u64_at(&header, 40)?, size * number)?;
    let header = |index: usize| headers.get(index * size..)?.get(..size);
    let contents = |header: &[u8]| {
        let length = usize::try_from(u64_at(header, 32)?).unwrap_or(usize::MAX);
        read(file, u64_at(header, 24)?, length.min(LONGEST))
    };
    let names = contents(header(usize::from(u16_at(&read(file, 0, 64)?, 62)?))?)?;
    let is_ours = |header: &&[u8]| {
        let name =
            header[..4].try_into().map(u32::from_le_bytes).ok().and_then(|at| names.get(at as usize..));
        name.is_some_and(|name| name.starts_with(SECTION))
    };
    contents((0..number).filter_map(header).find(is_ours)?)
}

/// All of it or nothing.
fn read(file: &File, at: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The section of a program with these strings.
    fn info(compiler: &str, modules: &str) -> Vec<u8> {
        let mut info = [MAGIC, &[8, INLINE]].concat();
        info.resize(STRINGS, 0);
        for text in [compiler.to_owned(), format!("{0}{modules}{0}", "-".repeat(MARK))] {
            info.extend([text.len() as u8 | 0x80, (text.len() >> 7) as u8]);
            info.extend(text.into_bytes());
        }
        info
    }

    fn check(modules: &str, client: Option<&str>, components: &str) {
        let (compiler, modules) = strings(&info("go1.22.4 X:nocoverageredesign", modules)).unwrap();
        let found = linked(&compiler, &modules);
        assert_eq!(found.client.as_deref(), client);
        assert_eq!(format!("{:?}", found.components), components);
    }

    #[test]
    fn modules_say_what_a_program_is_made_of() {
        check("path\tmain\nmod\tapi\t(devel)\n", None, r#"{"go": "1.22.4"}"#);
        check(
            "path\tmain\ndep\tgithub.com/labstack/echo/v4\tv4.12.0\th1:x=\ndep\tgolang.org/x/net\tv0.24.0\t\n",
            Some("go:echo"),
            r#"{"echo": "4.12.0", "go": "1.22.4"}"#,
        );
        check(
            "dep\tgithub.com/gin-gonic/gin\tv1.9.1\ndep\tgithub.com/go-chi/chi/v5\tv5.0.1\n",
            None,
            r#"{"chi": "5.0.1", "gin": "1.9.1", "go": "1.22.4"}"#,
        );
        check("dep\tgithub.com/gin-gonic/gin-contrib\tv1.9.1\n", None, r#"{"go": "1.22.4"}"#);
    }

    #[test]
    fn no_bytes_are_more_than_no_program() {
        let whole = info("go1.22.4", "path\tmain\n");
        for length in 0..whole.len() {
            assert_eq!(strings(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(string(&[0x80; 64]), None);
        assert_eq!(string(&[0xff, 0xff, 0x7f]), None);
    }

    #[test]
    fn what_is_no_program_of_ours_has_no_section() {
        let ourselves = File::open("/proc/self/exe").unwrap();
        assert_eq!(section(&ourselves), None);
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[b"\x7fELF\x02\x01".as_slice(), &[0xff; 100]].concat())
            .unwrap();
        assert_eq!(section(&file), None);
    }
}
