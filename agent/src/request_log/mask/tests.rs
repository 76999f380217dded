use super::*;

const HUB: Style = Style::Hub;

fn masks() -> Masks {
    Masks::default()
}

#[test]
fn queries_lose_secrets_and_nothing_else() {
    let check = |query: &str, want: &str| assert_eq!(masks().query(query, HUB), want, "{query}");
    check("", "");
    check("limit=2&token=secret-value&q=a%20b", "limit=2&token=******&q=a%20b");
    check("a=1&a=2&&b&=c&d==e", "a=1&a=2&&b&=c&d==e");
    check(
        "API_KEY=x&apikey=x&api-key=x&myAuthCode=x&pwd=x",
        "API_KEY=******&apikey=******&api-key=******&myAuthCode=******&pwd=******",
    );
    check("user[password]=x&tokens[]=a&tokens[]=b", "user[password]=******&tokens[]=******&tokens[]=******");
    // A value that is not there is no secret.
    check("token=&token&x=1", "token=&token&x=1");
    // The application reads the name decoded.
    check("to%6ben=x&pass%77ord=y", "to%6ben=******&pass%77ord=******");
    // Some servers separate by semicolons; others take them for a part of the value.
    check("a=1;token=x;b=2&c=3", "a=1;token=******&c=3");
    check("token=x;y&c=3", "token=******&c=3");
}

#[test]
fn secrets_inside_values_of_queries_are_found() {
    let masked = |value: &str| {
        let query = format!("next={value}&x=1");
        assert_eq!(masks().query(&query, HUB), "next=******&x=1", "{query}");
    };
    masked("%2Fcallback%3Ftoken%3Dabc");
    masked("%252Fcallback%253Ftoken%253Dabc");
    masked("%2525252525252Fdeep");
    masked("/callback?a=b%26access_token=abc");
    masked("http://user:pass@host/");
    masked("http%3A%2F%2Fuser%3Apass%40host%2F");
    masked("%7B%22password%22%3A%22hunter2%22%7D");
    masked("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl");
    for harmless in [
        "%2Fcallback%3Fa%3Db",
        "http://host/me@home",
        "eyJpZCI6MX0=",
        "%7B%22a%22%3A1%7D",
        "basic+plan",
        "100%",
    ] {
        let query = format!("next={harmless}&x=1");
        assert_eq!(masks().query(&query, HUB), query);
    }
}

#[test]
fn paths_may_hold_urls_and_parameters() {
    let check = |path: &str, want: &str| assert_eq!(masks().path(path, HUB), want, "{path}");
    check("/items/7", "/items/7");
    check("/proxy/http://user:pass@host/a", "/proxy/http://******@host/a");
    check("/proxy/http%3A%2F%2Fuser%3Apass%40host/a", "/proxy/******/a");
    check("/a;token=x;v=1/b;v=2", "/a;token=******/b;v=2");
    check("/@me/~you//x", "/@me/~you//x");
}

#[test]
fn headers_are_masked_by_name_by_notation_and_inside_urls() {
    let check = |name: &str, value: &str, want: &str| {
        assert_eq!(masks().header(name, value.as_bytes(), HUB), want, "{name}: {value}");
    };
    for name in [
        "Authorization",
        "cookie",
        "SET-COOKIE",
        "X-API-Key",
        "x-apikey",
        "x_api_key",
        "X-Amz-Security-Token",
    ] {
        check(name, "abc", "******");
        check(name, "", "******");
    }
    check("X-Plain", "kept", "kept");
    check("X-Anything", "Bearer abc", "******");
    check("X-Anything", "bAsIc YTpi", "******");
    check("X-Anything", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln", "******");
    check("Accept", "basic", "basic");
    check("Location", "/items?token=abc&q=a%20b", "/items?token=******&q=a%20b");
    check("Location", "https://u:p@host/x?a=1", "https://******@host/x?a=1");
    check("Location", "//u@host/x", "//******@host/x");
    check(
        "Location",
        "https://app/cb#access_token=abc&state=1",
        "https://app/cb#access_token=******&state=1",
    );
    check("Referer", "https://host/x?a=b#id_token=c", "https://host/x?a=******");
    check("Sec-CH-UA", r#""Not?A_Brand";v="8""#, r#""Not?A_Brand";v="8""#);
    check("From", "me@example.com", "me@example.com");
    assert_eq!(masks().header("X-Name", b"caf\xe9", HUB), "caf\u{e9}");
    assert_eq!(masks().header("X-Name", "caf\u{e9}".as_bytes(), HUB), "caf\u{e9}");
}

#[test]
fn json_fields_lose_secrets_and_nothing_else() {
    let check = |document: &str, want: &str| {
        assert_eq!(masks().json(document, HUB).as_deref(), Some(want), "{document}");
    };
    let same = |document: &str| check(document, document);
    check(
        r#" {"username" : "alice",
             "password" : "hunter2", "card": {"card number": "4111", "ccv": 123, "holder": "A"},
             "tokens": [{"refresh_token": "r1", "kind": "t"}]}
        "#,
        r#"{"username":"alice","password":"******","card":{"card number":"******","ccv":"******","holder":"A"},"tokens":[{"refresh_token":"******","kind":"t"}]}"#,
    );
    // As it was written: digits that no machine number has, escapes, doubles.
    same(r#"{"a":12345678901234567890.10,"b":"\u00e9\/\"","a":1e400,"c":[],"d":{},"e":[[],{}]}"#);
    same("null");
    same(r#""token""#);
    same(r#"["token","x"]"#);
    check("\u{feff}[1, 2]", "[1,2]");
    // Truth values and null say nothing; objects have names of their own.
    check(
        r#"{"secret":true,"token":null,"auth":{"user":"a","pwd":""},"ssn":-1.5e3}"#,
        r#"{"secret":true,"token":null,"auth":{"user":"a","pwd":"******"},"ssn":"******"}"#,
    );
    check(
        r#"{"tokens":["a",["b",2],{"kind":"c","token":["d"]},true],"x":["e"]}"#,
        r#"{"tokens":["******",["******","******"],{"kind":"c","token":["******"]},true],"x":["e"]}"#,
    );
    check(r#"{"to\u006ben":"x","\ud800":"y"}"#, r#"{"to\u006ben":"******","\ud800":"******"}"#);
    check(r#"{"token":"a\\\"b\\","x":"\\"}"#, r#"{"token":"******","x":"\\"}"#);
    check(r#"{"a":"http:\/\/u:p@host\/","b":"me@host"}"#, r#"{"a":"http://******@host/","b":"me@host"}"#);
    check(r#"{"a":"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"}"#, r#"{"a":"******"}"#);
}

#[test]
fn nesting_has_no_depth_that_hides() {
    let deep = format!("{}{{\"token\":\"x\"}}{}", "[".repeat(20_000), "]".repeat(20_000));
    assert!(masks().json(&deep, HUB).unwrap().contains(r#"{"token":"******"}"#));
}

#[test]
fn what_is_no_json_is_not_guessed_at() {
    for text in
        ["", "{", r#"{"token":"x""#, r#"{"token":"x"} trailing"#, "{'token':'x'}", r#"{"a":1}{"a":2}"#]
    {
        assert_eq!(masks().json(text, HUB), None, "{text}");
    }
}

#[test]
fn forms_know_fields_and_parameters() {
    let form = masks().form("user=a&card+number=4111&api_key=k&ssn=1", HUB);
    assert_eq!(form, "user=a&card+number=******&api_key=******&ssn=******");
}

#[test]
fn text_loses_user_info_and_tokens() {
    let check = |text: &str, want: &str| assert_eq!(masks().text(text, HUB), want, "{text}");
    check("see http://u:p@host/ and ftp://x@y", "see http://******@host/ and ftp://******@y");
    check("write to me@example.com // or not @ all", "write to me@example.com // or not @ all");
    check("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln\n", "******");
}

#[test]
fn masking_twice_changes_nothing_more() {
    let masks = masks();
    for query in ["token=x&next=http%3A%2F%2Fu:p@h", "a=1;token=y", "q=a+b"] {
        let once = masks.query(query, HUB);
        assert_eq!(masks.query(&once, HUB), once);
    }
    let once = masks.text("http://u:p@host", HUB).into_owned();
    assert_eq!(masks.text(&once, HUB), once);
}

#[test]
fn the_newest_generation_has_words_of_its_own() {
    let masks = masks();
    assert_eq!(masks.query("token=abc&q=a%20b", Style::Otlp), "token=[REDACTED]&q=a%20b");
    assert_eq!(masks.header("cookie", b"a=b", Style::Otlp), "[REDACTED]");
    assert_eq!(masks.json(r#"{"cvv": 1}"#, Style::Otlp).unwrap(), r#"{"cvv":"[REDACTED]"}"#);
}

#[test]
fn patterns_of_the_user_are_added() {
    let extra = |pattern: &str| vec![pattern.to_owned()];
    let extra =
        ExtraMasks { query_params: extra("^sig$"), headers: extra("^x-user"), body_fields: extra("iban") };
    let masks = Masks::new(&extra).unwrap();
    assert_eq!(masks.query("sig=a&signal=b&token=c", HUB), "sig=******&signal=b&token=******");
    assert_eq!(masks.header("X-User-Id", b"7", HUB), "******");
    assert_eq!(masks.header("Cookie", b"7", HUB), "******");
    assert_eq!(
        masks.json(r#"{"IBAN":"DE1","pwd":"x"}"#, HUB).unwrap(),
        r#"{"IBAN":"******","pwd":"******"}"#
    );
}
