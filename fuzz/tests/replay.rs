//! Every target on its seeds, on what was found before, and on noise: without the fuzzer, on any machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The files of a directory of the target's, in the order of their names; none when there is no such directory.
fn inputs(kind: &str, target: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(target);
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn what_was_found_before_holds() {
    for (target, check) in fuzz::TARGETS {
        for file in inputs("findings", target) {
            println!("{}", file.display());
            check(&fs::read(file).unwrap());
        }
    }
}

#[test]
fn seeds_hold() {
    for (target, check) in fuzz::TARGETS {
        let seeds = inputs("seeds", target);
        assert!(!seeds.is_empty(), "{target} has no seeds");
        for file in seeds {
            println!("{}", file.display());
            check(&fs::read(file).unwrap());
        }
    }
}

/// xorshift64*: enough for tests, and the same every time.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn noise_holds() {
    let noise = noise(1024 * 1024);
    for (_, check) in fuzz::TARGETS {
        noise.chunks(2048).for_each(check);
    }
}

#[test]
fn a_million_events_leave_nothing_behind() {
    fuzz::events::check(&noise(16 * 1024 * 1024));
}
