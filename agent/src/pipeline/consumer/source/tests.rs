use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};

use super::*;

fn find(source: Source, target: &str, headers: &[(&str, &str)]) -> Option<String> {
    let fields: Vec<_> =
        headers.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect();
    let evidence = Evidence { fields: &fields, target, peer: "[::ffff:10.1.2.3]:4000".parse().ok() };
    let mut scratch = Scratch::default();
    source.find(&evidence, &mut scratch).map(|value| String::from_utf8_lossy(value).into_owned())
}

fn basic(credentials: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(credentials))
}

#[test]
fn a_header_is_its_first_value() {
    let check = |headers: &[(&str, &str)], want: Option<&str>| {
        assert_eq!(find(Source::header("X-A").unwrap(), "/", headers).as_deref(), want);
    };
    check(&[("x-a", " alice ")], Some("alice"));
    check(&[("X-A", ""), ("x-a", "\t"), ("x-A", "second"), ("x-a", "third")], Some("second"));
    check(&[("x-ab", "x"), ("x", "y")], None);
}

#[test]
fn the_user_of_basic_credentials_is_found_without_the_password() {
    let check = |authorization: &str, want: Option<&str>| {
        let found = find(Source::basic_user(), "/", &[("Authorization", authorization)]);
        assert_eq!(found.as_deref(), want, "{authorization}");
    };
    check(&basic("alice:pass:word"), Some("alice"));
    check(&basic("älice:"), Some("älice"));
    check(&basic("alice:").replace("Basic ", "bASIC   "), Some("alice"));
    check(basic("alice:").trim_end_matches('='), Some("alice"));
    check(&basic(":password"), None);
    check(&basic("no colon"), None);
    check("Basic", None);
    check("Basic ", None);
    check("Basic !!!", None);
    check("Basicc YWxpY2U6", None);
    check("Bearer YWxpY2U6", None);
    check("", None);
    let twice = [("authorization", "Bearer x"), ("authorization", "Basic YWxpY2U6")];
    assert_eq!(find(Source::basic_user(), "/", &twice).as_deref(), Some("alice"));
}

#[test]
fn a_claim_is_found_in_the_header_that_has_the_token() {
    let token = format!("e30.{}.sig", BASE64_URL_SAFE_NO_PAD.encode(r#"{"sub":"alice","org":{"id":7}}"#));
    let check = |source: Source, header: &str, value: &str, want: Option<&str>| {
        assert_eq!(find(source, "/", &[(header, value)]).as_deref(), want, "{header}: {value}");
    };
    let claim = |name| Source::jwt_claim(name).unwrap();
    check(claim("sub"), "Authorization", &format!("Bearer {token}"), Some("alice"));
    check(claim("org.id"), "Authorization", &format!("bearer {token}"), Some("7"));
    check(claim("sub"), "Authorization", &token, None);
    check(claim("sub"), "Authorization", "Bearer garbage", None);
    check(claim("sub"), "X-Token", &token, None);
    check(Source::jwt_claim_in("X-Token", "sub").unwrap(), "x-token", &token, Some("alice"));
    check(
        Source::jwt_claim_in("Authorization", "sub").unwrap(),
        "authorization",
        &format!("Bearer {token}"),
        Some("alice"),
    );
}

#[test]
fn a_cookie_is_found_by_its_exact_name() {
    let check = |headers: &[(&str, &str)], want: Option<&str>| {
        assert_eq!(find(Source::cookie("sid").unwrap(), "/", headers).as_deref(), want, "{headers:?}");
    };
    check(&[("Cookie", "a=b; sid=x=y; c=d")], Some("x=y"));
    check(&[("Cookie", "sid=x")], Some("x"));
    check(&[("Cookie", ";;sid=\"x y\"")], Some("x y"));
    check(&[("Cookie", "asid=x; SID=y; sidb=z; sid")], None);
    check(&[("Cookie", "sid=; sid=\"\"; sid=x")], Some("x"));
    check(&[("Cookie", "a=b"), ("Cookie", "sid=x")], Some("x"));
    check(&[("X-Cookie", "sid=x")], None);
}

#[test]
fn a_parameter_is_decoded() {
    let check = |target: &str, want: Option<&str>| {
        assert_eq!(find(Source::query("api key").unwrap(), target, &[]).as_deref(), want, "{target}");
    };
    check("/a?api+key=x", Some("x"));
    check("/a?api%20key=x+y%2Bz&api%20key=w", Some("x y+z"));
    check("http://h/a?b=c&api+key=%C3%BC#api", Some("ü"));
    check("/a?api%20key=%", Some("%"));
    check("/a?api%20key=%F0", Some("\u{fffd}"));
    check("/a?api%20key=&api%20key=+&api%20key=x", Some("x"));
    check("/a?api%20keys=x", None);
    check("/a?api%20key", None);
    check("/a#?api%20key=x", Some("x")); // nobody sends a fragment
    check("/a", None);
    check("*", None);
    assert_eq!(find(Source::query("k").unwrap(), "/?b=1&k=2", &[]).as_deref(), Some("2"));
}

#[test]
fn proxies_tell_of_certificates_and_addresses() {
    let check = |source: Source, headers: &[(&str, &str)], want: Option<&str>| {
        assert_eq!(find(source, "/", headers).as_deref(), want, "{headers:?}");
    };
    let xfcc =
        [("x-forwarded-client-cert", "junk"), ("X-Forwarded-Client-Cert", "Hash=ab;Subject=\"CN=alice\"")];
    check(Source::forwarded_certificate(CertificatePart::Attribute("CN".to_owned())), &xfcc, Some("alice"));
    check(Source::forwarded_certificate(CertificatePart::Hash), &xfcc, Some("ab"));
    let dn = || Source::distinguished_name("X-SSL-Client-S-DN", "CN").unwrap();
    check(dn(), &[("x-ssl-client-s-dn", "CN=alice,O=Acme")], Some("alice"));
    check(dn(), &[("x-ssl-client-s-dn", "O=Acme")], None);
    check(Source::peer_address(), &[("x-forwarded-for", "6.6.6.6")], Some("10.1.2.3"));
    let behind = |proxies| Source::forwarded_address(Forwarding::XForwardedFor, proxies).unwrap();
    check(behind(1), &[("x-forwarded-for", "6.6.6.6, 1.1.1.1")], Some("1.1.1.1"));
    check(behind(1), &[], Some("10.1.2.3"));
}

#[test]
fn what_cannot_be_there_is_refused() {
    let check = |got: Result<Source, RuleError>, want: &str| {
        let error = got.unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    };
    check(Source::header("a b"), "\"a b\" is not a header name");
    check(Source::header(""), "not a header name");
    check(Source::header("x\r\ny"), "not a header name");
    check(Source::header(&"x".repeat(300)), "not a header name");
    check(Source::cookie("a=b"), "not a cookie name");
    check(Source::cookie(" "), "1 to 256 bytes, this one has 0");
    check(Source::query(""), "name of a query parameter");
    check(Source::jwt_claim(&"x".repeat(257)), "name of a claim has 1 to 256 bytes, this one has 257");
    check(Source::jwt_claim_in("", "sub"), "not a header name");
    check(Source::distinguished_name("x-dn", ""), "name of an attribute");
    check(Source::forwarded_address(Forwarding::Forwarded, 0), "at least 1");
}

#[test]
fn what_may_be_a_secret_is_known() {
    let secret = [
        Source::header("Authorization"),
        Source::cookie("lang"),
        Source::query("api_key"),
        Source::header("x-token"),
    ];
    let open = [
        Ok(Source::basic_user()),
        Source::jwt_claim("token"),
        Source::query("user"),
        Source::header("X-Forwarded-User"),
        Source::distinguished_name("X-SSL-Client-S-DN", "CN"),
        Ok(Source::forwarded_certificate(CertificatePart::Hash)),
        Ok(Source::peer_address()),
    ];
    assert!(secret.into_iter().all(|source| source.unwrap().is_secret()));
    assert!(open.into_iter().all(|source| !source.unwrap().is_secret()));
}
