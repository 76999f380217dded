//! Bodies: counted as a reader of the whole would count them, however they are cut.

use agent::pipeline::http::body::{Body, Reached};
use arbitrary::{Result, Unstructured};

/// A chunked body, read whole, by bytes, in arbitrary pieces, and with chunk data missing.
pub fn check(input: &[u8]) {
    // Without bytes to choose by there is nothing to check.
    let _ = check_chunked(input);
}

fn check_chunked(input: &[u8]) -> Result<()> {
    // The body in front, what decides about the pieces behind it.
    let (bytes, decisions) = input.split_at(input.len() - input.len() / 4);
    let want = by_hand(bytes);
    assert_eq!(count(bytes, || bytes.len(), |_| false), want, "whole");
    assert_eq!(count(bytes, || 1, |_| false), want, "by bytes");
    let mut choices = Unstructured::new(decisions);
    let piece = |choices: &mut Unstructured<'_>| choices.int_in_range(1..=40).unwrap_or(1);
    assert_eq!(count(bytes, || piece(&mut choices), |_| false), want, "in pieces");
    // What is certain to be data need not be seen.
    assert_eq!(count(bytes, || 7, |certain| certain > 0), want, "with gaps");
    Ok(())
}

/// Data bytes, bytes taken, and where it got to. Of each piece, what is certain to be data is skipped as a gap
/// if `missing` says so.
fn count(
    bytes: &[u8],
    mut piece: impl FnMut() -> usize,
    missing: impl Fn(u64) -> bool,
) -> (u64, u64, Reached) {
    let mut body = Body::CHUNKED;
    let (mut data, mut taken) = (0, 0);
    while (taken as usize) < bytes.len() {
        let rest = &bytes[taken as usize..];
        let certain = body.certain();
        let progress = if missing(certain) {
            body.skip(certain.min(rest.len() as u64))
        } else {
            body.feed(&rest[..piece().min(rest.len())], |_| ())
        };
        data += progress.data;
        taken += progress.taken;
        if progress.state != Reached::Inside {
            return (data, taken, progress.state);
        }
    }
    (data, taken, Reached::Inside)
}

/// RFC 9112 section 7.1 over bytes that are all there. Bare LF ends a line; lines have a longest length.
fn by_hand(bytes: &[u8]) -> (u64, u64, Reached) {
    let (mut at, mut data) = (0, 0_u64);
    loop {
        // chunk-size [ chunk-ext ] CRLF
        let mut size: u64 = 0;
        let mut digits = 0;
        loop {
            let Some(&byte) = bytes.get(at) else { return (data, at as u64, Reached::Inside) };
            at += 1;
            let Some(digit) = (byte as char).to_digit(16) else {
                match byte {
                    _ if digits == 0 => return (data, at as u64, Reached::Hidden),
                    b'\n' => break,
                    b'\r' | b';' | b' ' | b'\t' => {}
                    _ => return (data, at as u64, Reached::Hidden),
                }
                // To the end of the line.
                let line = &bytes[at..];
                let end = line.iter().position(|&byte| byte == b'\n');
                if end.unwrap_or(line.len()) > LINE - 1 {
                    return (data, (at + LINE) as u64, Reached::Hidden);
                }
                let Some(end) = end else { return (data, bytes.len() as u64, Reached::Inside) };
                at += end + 1;
                break;
            };
            digits += 1;
            if digits > 32 || size > u64::MAX / 16 {
                return (data, at as u64, Reached::Hidden);
            }
            size = size * 16 + u64::from(digit);
        }
        if size == 0 {
            break;
        }
        // chunk-data CRLF
        let here = size.min((bytes.len() - at) as u64);
        data += here;
        at += here as usize;
        loop {
            let Some(&byte) = bytes.get(at) else { return (data, at as u64, Reached::Inside) };
            at += 1;
            match byte {
                b'\r' => {}
                b'\n' => break,
                _ => return (data, at as u64, Reached::Hidden),
            }
        }
    }
    // trailer-section CRLF
    let section = &bytes[at..];
    let mut line_is_empty = true;
    for (index, &byte) in section.iter().enumerate() {
        at += 1;
        match byte {
            b'\n' if line_is_empty => return (data, at as u64, Reached::End),
            _ if index >= TRAILERS => return (data, at as u64, Reached::Hidden),
            b'\n' => line_is_empty = true,
            b'\r' => {}
            _ => line_is_empty = false,
        }
    }
    (data, at as u64, Reached::Inside)
}

/// Longest rest of a chunk-size line, and longest trailer section, bytes.
const LINE: usize = 4 * 1024;
const TRAILERS: usize = 16 * 1024;
