//! Do the first received bytes look like a request, or like TLS? All the kernel side knows of protocols.

use agent_common::limits::ROLE_PREFIX;

/// What the first received bytes of a call say about the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They begin like a request line: a method (RFC 9110 section 5.6.2, token) and a space, or as much of
    /// it as has arrived.
    Request,
    /// Empty lines only, which a server skips (RFC 9112 section 2.2).
    Undecided,
    Other,
}

/// Which connections are judged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Seen from its start: these are its first bytes.
    AtStart,
    /// Met in the middle: these may be anything, such as an answer that the target waited for.
    MetInTheMiddle,
}

/// Judges the first `len` bytes of `prefix`. A method that fills the whole prefix is too long for the hub.
#[inline(always)]
pub fn judge(prefix: &[u8; ROLE_PREFIX], len: u32, standing: Standing) -> Verdict {
    let mut verdict = Verdict::Undecided;
    // verifier: a constant bound, and no counter beside the index: each would multiply the states.
    for (at, byte) in prefix.iter().copied().enumerate() {
        if at as u32 >= len {
            return verdict;
        }
        if byte == b' ' && verdict == Verdict::Request {
            return Verdict::Request;
        }
        if is_method(byte, standing) {
            verdict = Verdict::Request;
        } else if verdict == Verdict::Request || (byte != b'\r' && byte != b'\n') {
            return Verdict::Other;
        }
    }
    Verdict::Other
}

/// Whether the first two received bytes are those of a TLS handshake record of any version (RFC 8446 section 5.1). User
/// space is told of it, so that somebody learns why there is nothing to be seen.
#[inline(always)]
pub fn begins_tls(prefix: &[u8; ROLE_PREFIX], len: u32) -> bool {
    len >= 2 && prefix[0] == 22 && prefix[1] == 3
}

/// Letters, digits and the two marks that methods use. Narrower than RFC 9110's token on purpose: `*`, `$`
/// and `+` begin the messages of databases. In the middle of a connection narrower still: methods are upper
/// case wherever it matters, and what is read there is mostly none.
#[inline(always)]
fn is_method(byte: u8, standing: Standing) -> bool {
    let letter = match standing {
        Standing::AtStart => byte.is_ascii_alphanumeric(),
        Standing::MetInTheMiddle => byte.is_ascii_uppercase(),
    };
    letter || byte == b'-' || byte == b'_'
}
