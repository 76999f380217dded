//! The client's certificate as a proxy tells of it that has ended mutual TLS.

/// What of a certificate names the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificatePart {
    /// An attribute of the subject's distinguished name, such as `CN`; in any case.
    Attribute(String),
    /// The subject's whole distinguished name, as the proxy writes it.
    Subject,
    /// A URI among its alternative names: the workload's identity under SPIFFE.
    Uri,
    /// A DNS name among them.
    Dns,
    /// The fingerprint: SHA-256, hex.
    Hash,
}

/// Writes a part of the first certificate in `X-Forwarded-Client-Cert` that has it (Envoy's manual, "x-forwarded-
/// client-cert"): that of the client farthest from us. Elements stand between commas, their pairs between semicolons,
/// values that need it in quotes with backslashes before quotes.
pub fn write_from_xfcc(
    header: &[u8],
    part: &CertificatePart,
    scratch: &mut Vec<u8>,
    found: &mut Vec<u8>,
) -> bool {
    let (name, attribute) = match part {
        CertificatePart::Attribute(attribute) => ("subject", Some(attribute)),
        CertificatePart::Subject => ("subject", None),
        CertificatePart::Uri => ("uri", None),
        CertificatePart::Dns => ("dns", None),
        CertificatePart::Hash => ("hash", None),
    };
    let mut rest = header;
    while let Some((pair, after)) = next_pair(rest) {
        rest = after;
        let at = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
        let (key, value) = pair.split_at(at);
        if !key.trim_ascii().eq_ignore_ascii_case(name.as_bytes()) {
            continue;
        }
        unquote(value.get(1..).unwrap_or_default(), scratch);
        let is_found = match attribute {
            Some(attribute) => write_attribute(scratch, attribute, found),
            None => {
                found.clear();
                found.extend_from_slice(scratch);
                true
            }
        };
        if is_found && !found.trim_ascii().is_empty() {
            return true;
        }
    }
    false
}

/// Up to the next comma or semicolon outside quotes, and what is behind that.
fn next_pair(text: &[u8]) -> Option<(&[u8], &[u8])> {
    if text.is_empty() {
        return None;
    }
    let end = unquoted(text, |byte| byte == b',' || byte == b';').unwrap_or(text.len());
    Some((text.get(..end).unwrap_or_default(), text.get(end + 1..).unwrap_or_default()))
}

/// Where the first byte is that `is_wanted`, stands outside quotes and has no backslash before it.
fn unquoted(text: &[u8], is_wanted: impl Fn(u8) -> bool) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (index, &byte) in text.iter().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            _ if !is_quoted && is_wanted(byte) => return Some(index),
            _ => {}
        }
    }
    None
}

/// Writes a value without the quotes around it. Of its backslashes only those before quotes go: the others are the
/// distinguished name's.
fn unquote(value: &[u8], text: &mut Vec<u8>) {
    text.clear();
    let value = value.trim_ascii();
    let Some(inner) = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")) else {
        text.extend_from_slice(value);
        return;
    };
    let mut bytes = inner.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' || bytes.peek() != Some(&b'"') {
            text.push(byte);
        }
    }
}

/// Writes the first value of an attribute of a distinguished name. Its notation is either that of RFC 4514
/// (`CN=client,O=Acme`, as nginx and Envoy write it) or OpenSSL's older one (`/O=Acme/CN=client`).
pub fn write_attribute(name: &[u8], attribute: &str, found: &mut Vec<u8>) -> bool {
    let name = name.trim_ascii();
    let mut rest = name;
    let has_slashes = name.first() == Some(&b'/');
    while !rest.is_empty() {
        let pair;
        (pair, rest) = if has_slashes { next_slashed(rest) } else { next_separated(rest) };
        let Some(at) = pair.iter().position(|&byte| byte == b'=') else { continue };
        let (kind, value) = pair.split_at(at);
        if kind.trim_ascii().eq_ignore_ascii_case(attribute.as_bytes()) {
            let value = value.get(1..).unwrap_or_default().trim_ascii_start();
            found.clear();
            if has_slashes {
                found.extend_from_slice(value);
            } else {
                unescape(value, found);
            }
            return !found.trim_ascii().is_empty();
        }
    }
    false
}

/// `CN=client` of `/CN=client/O=Acme`. A slash that no attribute follows is part of the value.
fn next_slashed(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.strip_prefix(b"/").unwrap_or(text);
    let begins_attribute = |rest: &[u8]| {
        let kind = rest.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'.').count();
        kind > 0 && rest.get(kind) == Some(&b'=')
    };
    let end = (0..text.len())
        .find(|&at| text.get(at) == Some(&b'/') && text.get(at + 1..).is_some_and(begins_attribute))
        .unwrap_or(text.len());
    text.split_at(end)
}

/// `CN=client` of `CN=client,O=Acme`. RFC 4514 section 2.1: `,` between names, `+` between parts of one; `;` is from
/// RFC 2253.
fn next_separated(text: &[u8]) -> (&[u8], &[u8]) {
    let end = unquoted(text, |byte| matches!(byte, b',' | b'+' | b';')).unwrap_or(text.len());
    (text.get(..end).unwrap_or_default(), text.get(end + 1..).unwrap_or_default())
}

/// RFC 4514 section 3: `\,` and the like, `\C3\A9` for bytes, and the quotes of RFC 2253.
fn unescape(value: &[u8], text: &mut Vec<u8>) {
    let hex = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'"' {
            continue;
        }
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        match *rest {
            [high, low, ..] if hex(high).is_some() && hex(low).is_some() => {
                text.push(hex(high).unwrap_or_default() << 4 | hex(low).unwrap_or_default());
                rest = rest.get(2..).unwrap_or_default();
            }
            [next, ..] => {
                text.push(next);
                rest = rest.get(1..).unwrap_or_default();
            }
            [] => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_in_both_notations() {
        let check = |name: &str, attribute, want: Option<&str>| {
            let mut found = Vec::new();
            let is_found = write_attribute(name.as_bytes(), attribute, &mut found);
            let found = is_found.then(|| String::from_utf8_lossy(&found).into_owned());
            assert_eq!(found.as_deref(), want, "{attribute} in {name}");
        };
        check("CN=client,OU=Sales,O=Acme", "CN", Some("client"));
        check("emailAddress=a@b.c,CN=client", "cn", Some("client"));
        check("cn = client , O = Acme", "CN", Some("client "));
        check("O=Acme\\, Inc.,CN=x", "O", Some("Acme, Inc."));
        check("O=Acme\\, CN=evil,CN=x", "CN", Some("x"));
        check("OU=Sales+CN=J. Smith,DC=example", "CN", Some("J. Smith"));
        check("CN=Lu\\C4\\8Di\\C4\\87", "CN", Some("Lučić"));
        check("O=\"Acme, Inc.\",CN=x", "O", Some("Acme, Inc."));
        check("O=\"Acme, CN=evil\",CN=x", "CN", Some("x"));
        check("/C=US/O=Acme/CN=client", "CN", Some("client"));
        check("/CN=a/b/O=Acme", "CN", Some("a/b"));
        check("/CN=client/emailAddress=a@b.c", "emailaddress", Some("a@b.c"));
        check("/O=x,CN=evil/CN=good", "CN", Some("good"));
        check("1.3.6.1=x,CN=y", "1.3.6.1", Some("x"));
        check("CN=,O=x", "CN", None);
        check("O=x", "CN", None);
        check("CN", "CN", None);
        check("", "CN", None);
        check("/", "CN", None);
        check("CN=a\\", "CN", Some("a"));
        check("CN=\\4", "CN", Some("4"));
    }

    #[test]
    fn a_forwarded_certificate_has_parts() {
        let check = |header: &str, part, want: Option<&str>| {
            let mut found = Vec::new();
            let is_found = write_from_xfcc(header.as_bytes(), &part, &mut Vec::new(), &mut found);
            let found = is_found.then(|| String::from_utf8_lossy(&found).into_owned());
            assert_eq!(found.as_deref(), want, "{part:?} in {header}");
        };
        let cn = || CertificatePart::Attribute("CN".to_owned());
        let one = r#"By=spiffe://mesh/ns/a;Hash=468ed33be74eee;Subject="CN=client,O=\"Acme, Inc.\"";URI=spiffe://mesh/b;DNS=b.example"#;
        check(one, cn(), Some("client"));
        check(one, CertificatePart::Attribute("o".to_owned()), Some("Acme, Inc."));
        check(one, CertificatePart::Subject, Some(r#"CN=client,O="Acme, Inc.""#));
        check(one, CertificatePart::Uri, Some("spiffe://mesh/b"));
        check(one, CertificatePart::Dns, Some("b.example"));
        check(one, CertificatePart::Hash, Some("468ed33be74eee"));
        let two = r#"Hash=1;Subject="";URI=spiffe://first,Hash=2;Subject="/CN=second";URI=spiffe://second"#;
        check(two, CertificatePart::Uri, Some("spiffe://first"));
        check(two, cn(), Some("second"));
        check(r#"By=x;subject="CN=a;URI=evil,URI=evil";uri=good"#, CertificatePart::Uri, Some("good"));
        check(r#"Subject="CN=a\\,b""#, cn(), Some("a\\"));
        check(r#"Subject="CN=open"#, cn(), None);
        check("URI=", CertificatePart::Uri, None);
        check("URI", CertificatePart::Uri, None);
        check(";;,,==", CertificatePart::Uri, None);
        check("", cn(), None);
    }
}
