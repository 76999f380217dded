//! Takes content codings off bodies (RFC 9110 section 8.4): gzip, deflate, br, zstd.
//!
//! Bodies are written by strangers, so what a stream announces is never believed: memory follows what was decoded, and
//! decoding ends at [`MAX_DECODED`]. A brotli stream has up to [`MAX_BROTLI_WINDOW`] besides, while it is decoded.

use std::borrow::Cow;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use miniz_oxide::inflate::{
    TINFLStatus,
    core::{DecompressorOxide, decompress, inflate_flags},
};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder, errors};

/// Longest body after decoding, bytes.
pub const MAX_DECODED: usize = 256 * 1024;

/// Most codings that are taken off one body. Servers apply one; a proxy may add another.
const MAX_CODINGS: usize = 3;

/// Largest window that a zstd stream may need, bytes: what RFC 9659 allows for content codings.
const MAX_ZSTD_WINDOW: u64 = 8 * 1024 * 1024;

/// Largest window that a brotli stream is given, bytes: the smallest one of its format that holds [`MAX_DECODED`] and
/// the 16 bytes that are no part of it (RFC 7932 section 9.1).
const MAX_BROTLI_WINDOW: usize = 1 << 19;
const _: () = assert!(MAX_DECODED < MAX_BROTLI_WINDOW - 16 && MAX_DECODED >= MAX_BROTLI_WINDOW / 2);

/// Why a body is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDecoded {
    #[error("a coding that is not known")]
    UnknownCoding,
    #[error("more than {MAX_CODINGS} codings")]
    TooManyCodings,
    /// Cut off, damaged, or with something behind its end.
    #[error("not in the coding that it is said to be in")]
    Broken,
    #[error("more than {MAX_DECODED} bytes when decoded")]
    TooLarge,
}

/// The body without its codings; `content_encoding` is the value of the header field, in the order in which they were
/// applied. A body without a coding is returned as it is.
///
/// # Errors
/// When nothing can be said about the content, see [`NotDecoded`].
pub fn decode<'a>(body: &'a [u8], content_encoding: &[u8]) -> Result<Cow<'a, [u8]>, NotDecoded> {
    let codings = content_encoding.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let codings = codings.filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"));
    let mut decoded = Cow::Borrowed(body);
    for (index, coding) in codings.rev().enumerate() {
        if index == MAX_CODINGS {
            return Err(NotDecoded::TooManyCodings);
        }
        decoded = Cow::Owned(Coding::named(coding).ok_or(NotDecoded::UnknownCoding)?.decode(&decoded)?);
    }
    Ok(decoded)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Coding {
    fn named(name: &[u8]) -> Option<Self> {
        let known: [(&[u8], Self); 5] = [
            (b"gzip", Self::Gzip),
            // RFC 9110 section 8.4.1.3.
            (b"x-gzip", Self::Gzip),
            (b"deflate", Self::Deflate),
            (b"br", Self::Brotli),
            (b"zstd", Self::Zstd),
        ];
        known.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known)).map(|(_, coding)| coding)
    }

    fn decode(self, body: &[u8]) -> Result<Vec<u8>, NotDecoded> {
        match self {
            Self::Gzip => gunzip(body),
            Self::Deflate => inflate_either(body),
            Self::Brotli => unbrotli(body),
            Self::Zstd => unzstd(body),
        }
    }
}

/// The members of a gzip file, one after the other (RFC 1952).
fn gunzip(body: &[u8]) -> Result<Vec<u8>, NotDecoded> {
    let (mut out, mut rest) = (Vec::new(), body);
    loop {
        let start = out.len();
        let data = gzip_data(rest).ok_or(NotDecoded::Broken)?;
        let taken = inflate(data, &mut out, 0)?;
        let (trailer, behind) =
            data.get(taken..).and_then(<[u8]>::split_first_chunk::<8>).ok_or(NotDecoded::Broken)?;
        let content = out.get(start..).unwrap_or_default();
        let [a, b, c, d, length @ ..] = *trailer;
        let is_intact = u32::from_le_bytes([a, b, c, d]) == crc32fast::hash(content)
            && u32::from_le_bytes(length) as usize == content.len();
        if !is_intact {
            return Err(NotDecoded::Broken);
        }
        if behind.is_empty() {
            return Ok(out);
        }
        rest = behind;
    }
}

/// What follows the header of a gzip member (RFC 1952 section 2.3).
fn gzip_data(member: &[u8]) -> Option<&[u8]> {
    const CRC: u8 = 1 << 1;
    const EXTRA: u8 = 1 << 2;
    const NAME: u8 = 1 << 3;
    const COMMENT: u8 = 1 << 4;
    const RESERVED: u8 = 0b1110_0000;
    let (header, mut rest) = member.split_first_chunk::<10>()?;
    let [0x1f, 0x8b, 8, flags, ..] = *header else { return None };
    if flags & RESERVED != 0 {
        return None;
    }
    if flags & EXTRA != 0 {
        let (length, behind) = rest.split_first_chunk::<2>()?;
        rest = behind.get(usize::from(u16::from_le_bytes(*length))..)?;
    }
    for _ in 0..(flags & (NAME | COMMENT)).count_ones() {
        let end = rest.iter().position(|&byte| byte == 0)?;
        rest = rest.get(end + 1..)?;
    }
    if flags & CRC != 0 {
        rest = rest.get(2..)?;
    }
    Some(rest)
}

/// "deflate" is to be the zlib format (RFC 9110 section 8.4.1.2); some servers send the bare stream.
fn inflate_either(body: &[u8]) -> Result<Vec<u8>, NotDecoded> {
    let with = |flags| {
        let mut out = Vec::new();
        match inflate(body, &mut out, flags) {
            Ok(taken) if taken == body.len() => Ok(out),
            Ok(_) => Err(NotDecoded::Broken),
            Err(error) => Err(error),
        }
    };
    let zlib = with(inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER | inflate_flags::TINFL_FLAG_COMPUTE_ADLER32);
    if zlib == Err(NotDecoded::Broken) { with(0) } else { zlib }
}

/// Appends what a deflate stream (RFC 1951) holds; the number of bytes that it takes.
fn inflate(body: &[u8], out: &mut Vec<u8>, flags: u32) -> Result<usize, NotDecoded> {
    let flags = flags | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let mut state = Box::<DecompressorOxide>::default();
    let (mut taken, start) = (0, out.len());
    let mut length = 0;
    loop {
        grow(out, start + length, body.len())?;
        // Distances lead back to the beginning of this stream, not of what is before it.
        let (buffer, rest) =
            (out.get_mut(start..).unwrap_or_default(), body.get(taken..).unwrap_or_default());
        let (status, read, written) = decompress(&mut state, rest, buffer, length, flags);
        taken += read;
        length += written;
        match status {
            TINFLStatus::Done if start + length > MAX_DECODED => return Err(NotDecoded::TooLarge),
            TINFLStatus::Done => {
                out.truncate(start + length);
                return Ok(taken);
            }
            TINFLStatus::HasMoreOutput => {}
            _ => return Err(NotDecoded::Broken),
        }
    }
}

/// Makes room behind the first `filled` bytes of `out`, in proportion to them and to the input.
fn grow(out: &mut Vec<u8>, filled: usize, input: usize) -> Result<(), NotDecoded> {
    if filled > MAX_DECODED {
        return Err(NotDecoded::TooLarge);
    }
    if out.len() <= filled {
        // One byte more than the bound shows that there is more.
        let length = (2 * filled).max(filled + 4 * input).max(filled + 1024);
        out.resize(length.min(MAX_DECODED + 1), 0);
    }
    Ok(())
}

/// A brotli stream (RFC 7932), without the larger windows that are no part of it.
fn unbrotli(body: &[u8]) -> Result<Vec<u8>, NotDecoded> {
    let alloc = StandardAlloc::default;
    let mut state = BrotliState::new_strict(alloc(), alloc(), alloc());
    let Some((&first, rest)) = body.split_first() else { return Err(NotDecoded::Broken) };
    let first = [narrowed(first)];
    let (mut input, mut available, mut taken) = (&first[..], 1, 0);
    let (mut out, mut length, mut total) = (Vec::new(), 0, 0);
    let mut is_at_first = true;
    loop {
        grow(&mut out, length, body.len())?;
        let mut room = out.len() - length;
        let result = BrotliDecompressStream(
            &mut available,
            &mut taken,
            input,
            &mut room,
            &mut length,
            &mut out,
            &mut total,
            &mut state,
        );
        debug_assert!(usize::try_from(state.ringbuffer_size).is_ok_and(|ring| ring <= MAX_BROTLI_WINDOW));
        match result {
            BrotliResult::NeedsMoreInput if is_at_first => {
                is_at_first = false;
                (input, available, taken) = (rest, rest.len(), 0);
            }
            // More may follow the shortest streams of all, which are a byte long.
            BrotliResult::ResultSuccess if is_at_first && !rest.is_empty() => return Err(NotDecoded::Broken),
            BrotliResult::ResultSuccess if available == 0 && length <= MAX_DECODED => {
                out.truncate(length);
                return Ok(out);
            }
            BrotliResult::NeedsMoreOutput => {}
            BrotliResult::ResultSuccess if available == 0 => return Err(NotDecoded::TooLarge),
            BrotliResult::ResultSuccess | BrotliResult::NeedsMoreInput | BrotliResult::ResultFailure => {
                return Err(NotDecoded::Broken);
            }
        }
    }
}

/// The first byte of a brotli stream, with no larger a window than [`MAX_BROTLI_WINDOW`]. The decoder allocates the
/// window that a stream announces, up to 16 MiB, as soon as a part of it announces to be as long. No distance of what is
/// decoded leads back further than its beginning, so it is the same in the smaller one.
fn narrowed(first: u8) -> u8 {
    // WBITS, RFC 7932 section 9.1: 18 to 24 are the odd values of the low four bits from 0b0011 on.
    const OF_19: u8 = 0b0101;
    let bits = first & 0b1111;
    if bits & 1 == 1 && bits > OF_19 { first & !0b1111 | OF_19 } else { first }
}

/// The frames of a zstd stream, one after the other (RFC 8878).
fn unzstd(body: &[u8]) -> Result<Vec<u8>, NotDecoded> {
    let (mut out, mut rest) = (Vec::new(), body);
    loop {
        // A new one for each frame: when it is used again it allocates the window that the frame announces.
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_ZSTD_WINDOW);
        match decoder.init(&mut rest) {
            Ok(()) => {
                // Up to one block, 128 KiB, more than the bound.
                let room = BlockDecodingStrategy::UptoBytes(MAX_DECODED + 1 - out.len());
                let is_whole = decoder.decode_blocks(&mut rest, room).map_err(|_| NotDecoded::Broken)?;
                if !is_whole || out.len() + decoder.can_collect() > MAX_DECODED {
                    return Err(NotDecoded::TooLarge);
                }
                out.extend(decoder.collect().unwrap_or_default());
            }
            Err(errors::FrameDecoderError::ReadFrameHeaderError(
                errors::ReadFrameHeaderError::SkipFrame { length, .. },
            )) => rest = rest.get(length as usize..).ok_or(NotDecoded::Broken)?,
            Err(_) => return Err(NotDecoded::Broken),
        }
        if rest.is_empty() {
            return Ok(out);
        }
    }
}

#[cfg(test)]
mod tests;
