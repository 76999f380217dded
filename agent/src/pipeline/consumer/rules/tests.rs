use httparse::Header;

use super::*;

const CLIENT_ID: &str = "a client";

fn hash(value: &str) -> String {
    Key::from_client_id(CLIENT_ID).hash(value.as_bytes()).to_string()
}

fn header(name: &str) -> ConsumerRule {
    ConsumerRule::new(Source::header(name).unwrap())
}

fn identify(rules: Vec<ConsumerRule>, fields: &[(&str, &[u8])]) -> Option<String> {
    let fields: Vec<_> = fields.iter().map(|&(name, value)| Header { name, value }).collect();
    let rules = ConsumerRules::new(Key::from_client_id(CLIENT_ID), rules).unwrap();
    let (evidence, mut identifier) = (Evidence { fields: &fields, ..Evidence::default() }, String::new());
    rules.identify(&evidence, &mut Scratch::default(), &mut identifier).map(|_| identifier)
}

#[test]
fn the_first_rule_with_a_value_decides() {
    let check = |fields: &[(&str, &[u8])], want: Option<&str>| {
        assert_eq!(identify(vec![header("X-A"), header("x-b")], fields).as_deref(), want);
    };
    check(&[("X-B", b"bob"), ("x-a", b" alice ")], Some("alice"));
    check(&[("X-B", b"bob"), ("x-a", b"  ")], Some("bob"));
    check(&[("x-a", b""), ("x-a", b"second")], Some("second"));
    check(&[("x-c", b"carol")], None);
    check(&[("x-a", &[b'Z', 0xfc])], Some("Zü"));
    check(&[("x-a", &[0xa0, b'Z', 0xfc, 0xa0])], Some("Zü"));
    check(&[("x-a", "\u{3000}".as_bytes()), ("x-b", b"bob")], Some("bob"));
    check(&[("x-a", "ü".repeat(200).as_bytes())], Some("ü".repeat(128).as_str()));
}

#[test]
fn secrets_are_hashed_unless_the_user_says_otherwise() {
    let check = |rule: ConsumerRule, name: &str, want: &str| {
        assert_eq!(identify(vec![rule], &[(name, b" s3cret ")]).as_deref(), Some(want));
    };
    let hashed = hash("s3cret");
    check(header("X-API-Key"), "x-api-key", &hashed);
    check(header("X-API-Key").hashing(Hashing::Never), "x-api-key", "s3cret");
    check(header("X-Consumer"), "x-consumer", "s3cret");
    check(header("X-Consumer").hashing(Hashing::Always), "x-consumer", &hashed);
    check(header("X-API-Key").prefix("key:").unwrap(), "x-api-key", &format!("key:{hashed}"));
    check(header("X-Consumer").prefix("who ").unwrap(), "x-consumer", "who s3cret");
}

#[test]
fn a_prefix_takes_its_room_from_the_value() {
    let rule = header("x-a").prefix(&"ü".repeat(64)).unwrap();
    let identifier = identify(vec![rule], &[("x-a", "ö".repeat(200).as_bytes())]).unwrap();
    assert_eq!(identifier, "ü".repeat(64) + &"ö".repeat(64));
}

#[test]
fn a_scheme_is_demanded_and_taken_off() {
    let check = |value: &str, want: Option<&str>| {
        let bearer = header("Authorization").scheme("Bearer").unwrap();
        let found = identify(vec![bearer], &[("authorization", value.as_bytes())]);
        assert_eq!(found.as_deref(), want, "{value}");
    };
    let hashed = hash("x");
    check("Bearer x", Some(&hashed));
    check("bEARER   x ", Some(&hashed));
    check("Bearer", None);
    check("Bearers x", None);
    check("Basic x", None);
    check("x", None);
    let whole = identify(vec![header("Authorization")], &[("authorization", b"Bearer x")]);
    assert_eq!(
        whole.as_deref(),
        Some(hash("Bearer x").as_str()),
        "without a scheme the whole value identifies"
    );
    assert_ne!(whole, identify(vec![header("Authorization")], &[("authorization", b"bearer x")]));
}

#[test]
fn what_is_not_allowed_is_left_to_the_next_rule() {
    let check = |rule: ConsumerRule, value: &str, want: &str| {
        let next = ConsumerRule::new(Source::header("x-next").unwrap());
        let fields: [(&str, &[u8]); 2] = [("x-a", value.as_bytes()), ("x-next", b"next")];
        assert_eq!(identify(vec![rule, next], &fields).as_deref(), Some(want), "{value}");
    };
    let allow = |hashing, values: &[&str]| header("x-a").hashing(hashing).allow(values).unwrap();
    check(allow(Hashing::Never, &["alice", " bob "]), "bob", "bob");
    check(allow(Hashing::Never, &["alice", "bob"]), "carol", "next");
    check(allow(Hashing::Never, &["a*", "?ob"]), "bob", "bob");
    check(allow(Hashing::Never, &["a*", "?ob"]), "ob", "next");
    check(allow(Hashing::Never, &["Alice"]), "alice", "next");
    check(allow(Hashing::Always, &["alice", "b*"]), "alice", &hash("alice"));
    check(allow(Hashing::Always, &["alice", "b*"]), "bob", &hash("bob"));
    check(allow(Hashing::Always, &["alice"]), "bob", "next");
    check(allow(Hashing::Always, &[&hash("alice")]), "alice", "next");
}

#[test]
fn many_stars_do_not_take_long() {
    let pattern = "*a".repeat(64) + "b";
    let rule = header("x-a").allow([pattern]).unwrap();
    assert_eq!(identify(vec![rule], &[("x-a", "a".repeat(32 * 1024).as_bytes())]), None);
}

#[test]
fn nothing_shows_a_key_or_an_allowed_value() {
    let rule = header("x-api-key").allow(["s3cret", "s3c*"]).unwrap();
    let rules = ConsumerRules::new(Key::from_client_id(CLIENT_ID), vec![rule.clone()]).unwrap();
    for shown in [format!("{rule:?}"), format!("{rules:?}")] {
        assert!(!shown.contains("s3c"), "{shown}");
        assert!(shown.contains("x-api-key"), "{shown}");
    }
}

#[test]
fn rules_that_cannot_be_used_are_refused() {
    let check = |got: Result<ConsumerRule, RuleError>, want: &str| {
        let error = got.unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    };
    check(header("x").prefix(&"x".repeat(65)), "at most 64 characters");
    check(header("x").prefix(" x"), "blanks in front");
    check(header("x").prefix("a\u{1b}"), "cannot be seen");
    check(header("x").scheme("a b"), "not an authentication scheme");
    check(header("x").scheme(""), "not an authentication scheme");
    check(ConsumerRule::new(Source::basic_user()).scheme("Basic"), "only be taken off the value of a header");
    check(header("x").allow([" "]), "at least one value");
    check(header("x").allow(vec!["*"; 65]), "at most 64 patterns");
    let key = || Key::from_client_id(CLIENT_ID);
    let many = ConsumerRules::new(key(), vec![header("x"); 65]).unwrap_err();
    assert_eq!(many, RuleError::TooManyRules { saw: 65 });
    let secret =
        ConsumerRules::new(key(), vec![]).unwrap().named_by(vec![Source::header("x-token").unwrap()], vec![]);
    assert_eq!(secret.unwrap_err(), RuleError::SecretName);
}
