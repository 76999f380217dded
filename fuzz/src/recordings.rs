//! Recording files: any bytes, and files that were written well and damaged afterwards.

use agent::{
    pipeline::{Limits, Pipeline, Policy},
    recording::{Frame, ReadError, Reader, Recorder},
    replay,
};
use arbitrary::{Arbitrary, Result, Unstructured};

use crate::account::Account;

/// What begins like a recording is read as one; out of anything else one is made.
pub fn check(input: &[u8]) {
    if input.starts_with(b"APITTAP") {
        replay(input);
    } else {
        // Without bytes to choose by there is nothing to check.
        let _ = damage(&mut Unstructured::new(input));
    }
}

/// Replayed up to the damage, and what came before it adds up.
fn replay(file: &[u8]) {
    let Ok(mut reader) = Reader::new(file) else { return };
    let mut pipeline = Pipeline::new(Limits::default());
    let played = replay::play(&mut reader, &mut pipeline, |_, _| Policy::default())
        .expect("memory does not fail to be read");
    if let Some(ReadError::Damaged { at, .. }) = played.damage {
        let rest = file.get(at as usize..).expect("the damage lies in the file");
        assert!(!rest.is_empty());
    }
    for target in played.targets.into_keys() {
        pipeline.finish_target(target);
        Account::default().close(&mut pipeline, target);
    }
}

/// What was written in front of the damage is read, and nothing else.
fn damage(choices: &mut Unstructured<'_>) -> Result<()> {
    let frames: Vec<Written> = choices.arbitrary()?;
    let mut file = Vec::new();
    let mut recorder = Recorder::new(&mut file).expect("memory takes everything");
    let mut ends = vec![8];
    for frame in &frames {
        let (written, length) = match frame {
            Written::Target { id, pid, ports } => (
                recorder.target(*id, *pid, &ports[..ports.len().min(MAX_PORTS)]),
                8 + 2 * ports.len().min(MAX_PORTS),
            ),
            Written::Record(bytes) => (recorder.record(bytes, bytes.len()), bytes.len()),
        };
        written.expect("memory takes everything");
        ends.push(ends.last().expect("it begins with one") + 8 + 1 + length);
    }
    drop(recorder);
    assert_eq!(ends.last(), Some(&file.len()));

    let at = choices.int_in_range(0..=file.len() - 1)?;
    let whole = ends.iter().filter(|end| **end <= at).count();
    match choices.arbitrary()? {
        0 => file.truncate(at),
        flipped => file[at] ^= flipped,
    }
    let mut reader = match Reader::new(&file[..]) {
        Ok(reader) => reader,
        Err(_) => {
            assert_eq!(whole, 0, "its beginning is undamaged");
            return Ok(());
        }
    };
    for frame in frames.iter().take(whole - 1) {
        match (reader.next_frame(), frame) {
            (Ok(Some(Frame::Record(read))), Written::Record(written)) => assert_eq!(read, written),
            (Ok(Some(Frame::Target { id, pid, ports })), Written::Target { id: i, pid: p, ports: q }) => {
                assert_eq!((id, pid, &ports[..]), (*i, *p, &q[..q.len().min(MAX_PORTS)]));
            }
            (read, written) => panic!("{read:?} was written as {written:?}"),
        }
    }
    let rest = reader.next_frame();
    if ends.contains(&file.len()) && file.len() == at {
        assert!(matches!(rest, Ok(None)), "{rest:?}");
    } else {
        assert!(matches!(rest, Err(ReadError::Damaged { .. })), "{rest:?}");
    }
    Ok(())
}

/// Ports that a frame has room for.
const MAX_PORTS: usize = 1024;

#[derive(Debug, Arbitrary)]
enum Written {
    Target { id: u32, pid: u32, ports: Vec<u16> },
    Record(Vec<u8>),
}
