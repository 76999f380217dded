use miniz_oxide::deflate::{compress_to_vec, compress_to_vec_zlib};
use ruzstd::encoding::{CompressionLevel, compress_to_vec as zstd};

use super::*;

const TEXT: &[u8] = b"{\"detail\":\"what was wrong, what was wrong, what was wrong\"}";

/// As Node.js and Python's zstandard wrote them.
const GZIP: &str = "1f8b0800000000000003ab564a492d49cccc51b2522acf482c51284f2c56282fcacf4bd751c0cf57aa05008ab0d04e\
                    3b000000";
const ZLIB: &str = "789cab564a492d49cccc51b2522acf482c51284f2c56282fcacf4bd751c0cf57aa05007031150a";
const RAW: &str = "ab564a492d49cccc51b2522acf482c51284f2c56282fcacf4bd751c0cf57aa0500";
const BROTLI: &str = "1b3a00f88dc43816f1467121d52220777b5b276cae0f4ce404bc45e989df035c11484abc02d7ec4f1c60";
const ZSTD: &str = "28b52ffd203b1d0100e87b2264657461696c223a2277686174207761732077726f6e672c20227d01008f38c7";
const ZSTD_STREAM: &str =
    "28b52ffd00581d0100e87b2264657461696c223a2277686174207761732077726f6e672c20227d01008f38c7";
/// Its window is 16 MiB.
const ZSTD_WIDE: &str =
    "28b52ffd00701d0100e87b2264657461696c223a2277686174207761732077726f6e672c20227d01008f38c7";
/// So many zeros as text.
const BROTLI_262144: &str = "5bffff835f02261e0b0472ef0700";
const BROTLI_262145: &str = "5b0000845f02261e0b0474ef0700";
const ZSTD_262144: &str = "28b52ffd00585400001030300100fbff39c00202001030010000";
const ZSTD_262145: &str = "28b52ffd00585400001030300100fbff39c0020200103009000030";
/// 16 MiB of it, in a window of as much.
const BROTLI_BOMB: &str = "9ffffffff82560e2b14020f7fe1f";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[track_caller]
fn check(body: &[u8], coding: &str, want: Result<&[u8], NotDecoded>) {
    let got = decode(body, coding.as_bytes());
    let got = got.as_deref().map_err(|error| *error);
    let lengths = (got.map(<[u8]>::len), want.map(<[u8]>::len));
    assert!(got == want, "{coding}: {lengths:?}");
}

/// A gzip member of the plainest kind.
fn gzip(content: &[u8]) -> Vec<u8> {
    let mut member = bytes("1f8b0800000000000003");
    member.extend(compress_to_vec(content, 6));
    member.extend(crc32fast::hash(content).to_le_bytes());
    member.extend((content.len() as u32).to_le_bytes());
    member
}

#[test]
fn every_coding_comes_off() {
    for (coding, body) in [
        ("gzip", GZIP),
        ("x-gzip", GZIP),
        ("GZIP", GZIP),
        ("deflate", ZLIB),
        ("deflate", RAW),
        ("br", BROTLI),
        ("zstd", ZSTD),
        ("zstd", ZSTD_STREAM),
    ] {
        check(&bytes(body), coding, Ok(TEXT));
    }
    for none in ["", "identity", " , Identity,"] {
        assert!(matches!(decode(TEXT, none.as_bytes()), Ok(Cow::Borrowed(TEXT))));
    }
}

#[test]
fn codings_come_off_in_the_order_opposite_to_the_fields() {
    let twice = gzip(&bytes(BROTLI));
    check(&twice, "br, gzip", Ok(TEXT));
    check(&twice, "br,identity , gzip", Ok(TEXT));
    check(&twice, "gzip, br", Err(NotDecoded::Broken));
    check(&gzip(&gzip(&gzip(TEXT))), "gzip, gzip, gzip", Ok(TEXT));
    check(&gzip(&gzip(&gzip(&gzip(TEXT)))), "gzip, gzip, gzip, gzip", Err(NotDecoded::TooManyCodings));
    check(TEXT, "compress", Err(NotDecoded::UnknownCoding));
    check(TEXT, "gzip;q=1", Err(NotDecoded::UnknownCoding));
}

#[test]
fn members_and_frames_follow_each_other() {
    check(&[gzip(b"ab"), gzip(b""), gzip(b"cd")].concat(), "gzip", Ok(b"abcd"));
    check(&[bytes(ZSTD), bytes(ZSTD_STREAM)].concat(), "zstd", Ok(&[TEXT, TEXT].concat()));
    // A skippable frame, RFC 8878 section 3.1.2.
    check(&[bytes("502a4d1803000000616263"), bytes(ZSTD)].concat(), "zstd", Ok(TEXT));
}

#[test]
fn a_gzip_header_may_hold_more() {
    let member = gzip(TEXT);
    let with = |flags: u8, fields: &[u8]| {
        let mut header = member[..10].to_vec();
        header[3] = flags;
        [&header, fields, &member[10..]].concat()
    };
    check(&with(0b0001, b""), "gzip", Ok(TEXT));
    check(&with(0b1000, b"name\0"), "gzip", Ok(TEXT));
    check(&with(0b1_0000, b"comment\0"), "gzip", Ok(TEXT));
    check(&with(0b1_1110, b"\x02\0ab\0\0xx"), "gzip", Ok(TEXT));
    check(&with(0b100, b"\xff\xff"), "gzip", Err(NotDecoded::Broken));
    check(&with(0b1000, b"")[..10], "gzip", Err(NotDecoded::Broken));
    check(&with(0b10_0000, b""), "gzip", Err(NotDecoded::Broken));
}

#[test]
fn what_is_cut_off_damaged_or_followed_by_more_is_broken() {
    for (coding, body) in [
        ("gzip", GZIP),
        ("deflate", ZLIB),
        ("deflate", RAW),
        ("br", BROTLI),
        ("zstd", ZSTD),
        ("zstd", ZSTD_STREAM),
    ] {
        let body = bytes(body);
        for length in 0..body.len() {
            check(&body[..length], coding, Err(NotDecoded::Broken));
        }
        check(&[&body, &b"x"[..]].concat(), coding, Err(NotDecoded::Broken));
    }
    let mut wrong_sum = bytes(GZIP);
    let at = wrong_sum.len() - 8;
    wrong_sum[at] ^= 1;
    check(&wrong_sum, "gzip", Err(NotDecoded::Broken));
    check(TEXT, "gzip", Err(NotDecoded::Broken));
    check(b"", "br", Err(NotDecoded::Broken));
}

#[test]
fn a_bomb_is_too_large() {
    let bomb = vec![b'0'; 48 * 1024 * 1024];
    check(&gzip(&bomb), "gzip", Err(NotDecoded::TooLarge));
    check(&compress_to_vec_zlib(&bomb, 1), "deflate", Err(NotDecoded::TooLarge));
    check(&compress_to_vec(&bomb, 1), "deflate", Err(NotDecoded::TooLarge));
    check(&zstd(bomb.as_slice(), CompressionLevel::Fastest), "zstd", Err(NotDecoded::TooLarge));
    check(&bytes(BROTLI_BOMB), "br", Err(NotDecoded::TooLarge));
    // One that opens in the second step, and many small ones.
    check(&gzip(&gzip(&bomb)), "gzip, gzip", Err(NotDecoded::TooLarge));
    check(&gzip(&bomb[..1000]).repeat(300), "gzip", Err(NotDecoded::TooLarge));
    check(&bytes(ZSTD).repeat(6000), "zstd", Err(NotDecoded::TooLarge));
    // Refused for what it asks for, before any of it is given.
    check(&bytes(ZSTD_WIDE), "zstd", Err(NotDecoded::Broken));
}

/// A window is announced and never allocated: decoding asserts it.
#[test]
fn brotli_gets_no_larger_a_window_than_it_can_use() {
    for (announced, given) in [
        (0b1100_0000, 0b1100_0000), // 16 bits
        (0b1100_0001, 0b1100_0001), // 17, or a longer code
        (0b1100_0011, 0b1100_0011), // 18
        (0b1100_0101, 0b1100_0101), // 19
        (0b1100_0111, 0b1100_0101), // 20
        (0b1100_1111, 0b1100_0101), // 24
    ] {
        assert_eq!(narrowed(announced), given, "{announced:08b}");
    }
    for announced in [0b0011, 0b0101, 0b0111, 0b1001, 0b1101, 0b1111] {
        let window = |hex: &str| {
            let mut stream = bytes(hex);
            stream[0] = stream[0] & !0b1111 | announced;
            stream
        };
        check(&window(BROTLI), "br", Ok(TEXT));
        check(&window(BROTLI_262145), "br", Err(NotDecoded::TooLarge));
    }
    // Nothing at all, in the largest window; and more behind it.
    check(&bytes("3f"), "br", Ok(b""));
    check(&bytes("3f00"), "br", Err(NotDecoded::Broken));
}

#[test]
fn the_bound_is_the_last_length_that_is_decoded() {
    let (most, more) = (vec![b'0'; MAX_DECODED], vec![b'0'; MAX_DECODED + 1]);
    check(&gzip(&most), "gzip", Ok(&most));
    check(&gzip(&more), "gzip", Err(NotDecoded::TooLarge));
    check(&compress_to_vec(&most, 1), "deflate", Ok(&most));
    check(&compress_to_vec(&more, 1), "deflate", Err(NotDecoded::TooLarge));
    check(&bytes(BROTLI_262144), "br", Ok(&most));
    check(&bytes(BROTLI_262145), "br", Err(NotDecoded::TooLarge));
    check(&bytes(ZSTD_262144), "zstd", Ok(&most));
    check(&bytes(ZSTD_262145), "zstd", Err(NotDecoded::TooLarge));
    check(&[gzip(&most), gzip(b"0")].concat(), "gzip", Err(NotDecoded::TooLarge));
}
