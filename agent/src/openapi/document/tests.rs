use super::*;

fn parse(text: &str) -> Result<Document, String> {
    Document::parse(text.as_bytes()).map_err(|error| error.to_string())
}

/// Every endpoint as `METHOD template (other spellings)`.
#[track_caller]
fn endpoints(text: &str, base: &BasePath) -> Vec<String> {
    let endpoints = parse(text).unwrap().endpoints(base).unwrap();
    let line = |endpoint: Endpoint| {
        let also: Vec<_> = endpoint.also.iter().map(Pattern::template).collect();
        let also = if also.is_empty() { String::new() } else { format!(" ({})", also.join(" ")) };
        let method = endpoint.method.unwrap();
        format!("{} {}{also}", method.as_str(), endpoint.pattern.template())
    };
    endpoints.into_iter().map(line).collect()
}

#[track_caller]
fn check(text: &str, want: &[&str]) {
    assert_eq!(endpoints(text, &BasePath::OfDocument), want, "{text}");
}

#[track_caller]
fn refuse(text: &str, want: &str) {
    let error = parse(text).unwrap_err();
    let text: String = text.chars().take(200).collect();
    assert!(error.contains(want), "{text}: {error}");
}

const YAML: &str = "\
openapi: 3.1.0
info: { title: Items, version: '1' }
servers:
  - url: https://{region}.example.com/{version}/
    variables:
      region: { default: eu, enum: [eu, us] }
      version: { default: v1 }
  - url: /
paths:
  /items:
    summary: All of them
    get:
      operationId: list
      responses:
        200: { description: ok }
    post:
      summary: Add one
      description: |
        Adds one.
      responses: { 201: { description: made } }
  /items/{item_id}:
    parameters: []
    get: { responses: {} }
  /shared:
    $ref: '#/components/pathItems/Shared'
components:
  pathItems:
    Shared:
      delete: { responses: {} }
";

#[test]
fn yaml_and_json_say_the_same() {
    let want = [
        "GET /v1/items (/items)",
        "POST /v1/items (/items)",
        "GET /v1/items/{item_id} (/items/{item_id})",
        "DELETE /v1/shared (/shared)",
    ];
    check(YAML, &want);
    let document = parse(YAML).unwrap();
    let json = document.json.clone().unwrap();
    assert!(json.starts_with(r#"{"openapi":"3.1.0","info":"#), "{json}");
    assert_eq!(parse(&json).unwrap(), document);
    check(&format!("\u{feff}  {json}"), &want);

    let [list, add, ..] = document.operations.as_slice() else { panic!("four operations") };
    assert_eq!((list.summary.as_deref(), list.description.as_deref()), (Some("All of them"), None));
    assert_eq!((add.summary.as_deref(), add.description.as_deref()), (Some("Add one"), Some("Adds one.\n")));
}

#[test]
fn base_paths_are_where_each_version_has_them() {
    let three = |rest: &str| format!(r#"{{"openapi": "3.0.3", "paths": {{"/a": {{"get": {{}}}}}}{rest}}}"#);
    check(&three(""), &["GET /a"]);
    check(&three(r#", "servers": []"#), &["GET /a"]);
    check(&three(r#", "servers": [{"url": "https://example.com"}]"#), &["GET /a"]);
    check(&three(r#", "servers": [{"url": "/api"}]"#), &["GET /api/a (/a)"]);
    check(&three(r#", "servers": [{"url": "./api/"}]"#), &["GET /api/a (/a)"]);
    check(&three(r#", "servers": [{"url": "//example.com/api?x"}]"#), &["GET /api/a (/a)"]);
    check(
        &three(r#", "servers": [{"url": "/v2"}, {"url": "http://localhost:8000/v2/"}, {"url": "/v1"}]"#),
        &["GET /v2/a (/v1/a /a)"],
    );
    check(
        &three(r#", "servers": [{"url": "http://localhost:8000"}, {"url": "/api"}]"#),
        &["GET /a (/api/a)"],
    );

    let two = |rest: &str| format!(r#"{{"swagger": "2.0", "paths": {{"/a": {{"get": {{}}}}}}{rest}}}"#);
    check(&two(""), &["GET /a"]);
    check(&two(r#", "basePath": "/""#), &["GET /a"]);
    check(&two(r#", "basePath": "/api/v1/""#), &["GET /api/v1/a (/a)"]);
    check("swagger: 2.0\npaths:\n  /a:\n    get: {}\nbasePath: api\n", &["GET /api/a (/a)"]);

    // The nearest servers count.
    check(
        r#"{"openapi": "3.0.0", "servers": [{"url": "/top"}], "paths": {
            "/a": {"servers": [{"url": "/path"}], "get": {}, "put": {"servers": [{"url": "/own"}]}},
            "/b": {"get": {}}}}"#,
        &["GET /path/a (/a)", "PUT /own/a (/a)", "GET /top/b (/b)"],
    );
}

#[test]
fn the_base_path_can_be_settled() {
    let text = r#"{"openapi": "3.0.0", "servers": [{"url": "/api"}], "paths": {"/a": {"get": {}}}}"#;
    assert_eq!(endpoints(text, &BasePath::Is(String::new())), ["GET /a"]);
    assert_eq!(endpoints(text, &BasePath::Is("/mine/".to_owned())), ["GET /mine/a"]);
    let error = parse(text).unwrap().endpoints(&BasePath::Is("mine".to_owned())).unwrap_err().to_string();
    assert!(error.contains("base path \"mine\"") && error.contains("begin with a slash"), "{error}");
}

#[test]
fn references_are_followed_inside_the_document() {
    check(
        r##"{"openapi": "3.0.0", "paths": {
            "/a/{x}": {"get": {}},
            "/b": {"$ref": "#/paths/~1a~1{x}"},
            "/c": {"$ref": "#/paths/~1b"},
            "/d": {"$ref": "#/paths/~1a~1%7Bx%7D"}}}"##,
        &["GET /a/{x}", "GET /b", "GET /c", "GET /d"],
    );
    let with =
        |reference: &str| format!(r#"{{"openapi": "3.0.0", "paths": {{"/a": {{"$ref": {reference}}}}}}}"#);
    refuse(&with(r##""#/paths/~1a""##), "more than 16 references");
    refuse(&with(r##""#/paths/~1b""##), "leads nowhere");
    refuse(&with(r#""other.yaml""#), "\"other.yaml\" leads out of the document");
    refuse(&with("7"), "the reference a number");
}

#[test]
fn what_is_no_document_is_named() {
    refuse("", "neither `openapi` nor `swagger`");
    refuse("{", "as JSON: EOF while parsing an object at line 1 column 1");
    refuse("a: [", "as YAML: ");
    refuse("<!DOCTYPE html><html></html>", "HTML");
    refuse(r#"{"title": "x", "type": "object"}"#, "but \"title\", \"type\"");
    refuse("just a sentence", "neither");
    refuse(r#"{"openapi": "4.0.0"}"#, "openapi \"4.0.0\"");
    refuse(r#"{"swagger": "1.2"}"#, "swagger \"1.2\"");
    refuse(
        r#"{"openapi": "3.0.0", "paths": []}"#,
        "at paths of the OpenAPI document: an object is due here, not a list",
    );
    refuse(r#"{"openapi": "3.0.0", "paths": {"a": {}}}"#, "at paths.\"a\"");
    refuse(r#"{"openapi": "3.0.0", "paths": {"/a/{": {}}}"#, "opens a parameter at character 4");
    refuse(
        r#"{"openapi": "3.0.0", "paths": {"/a": 7}}"#,
        "at paths.\"/a\" of the OpenAPI document: an object is due",
    );
    refuse(r#"{"openapi": "3.0.0", "paths": {"/a": {"get": "x"}}}"#, "at paths.\"/a\".get");
    refuse(r#"{"openapi": "3.0.0", "servers": {}}"#, "`servers` is an object");
    refuse(r#"{"openapi": "3.0.0", "servers": [{}]}"#, "servers[0]");
    refuse(
        r#"{"openapi": "3.0.0", "servers": [{"url": "/{v}"}]}"#,
        "variable \"v\" of the url has no default",
    );
    refuse(r#"{"swagger": "2.0", "basePath": 7}"#, "at basePath");
    let error = Document::parse(b"openapi: 3.0.0\n# \xff").unwrap_err().to_string();
    assert!(error.contains("from byte 17 on"), "{error}");
}

#[test]
fn what_is_not_about_paths_is_left_alone() {
    check(
        r#"{"openapi": "3.0.0", "paths": {"x-note": 7, "/a": {"x-note": [], "parameters": [], "get": {}}, "/b": null}}"#,
        &["GET /a"],
    );
    check(r#"{"openapi": "3.1.0", "webhooks": {"new": {"post": {}}}}"#, &[]);
}

#[test]
fn bounds_hold() {
    let error = Document::parse(&vec![b' '; MAX_DOCUMENT + 1]).unwrap_err();
    assert!(matches!(error, DocumentError::TooLong { .. }), "{error}");

    let paths = |count: usize| {
        let paths: Vec<_> = (0..count).map(|index| format!(r#""/{index}": {{"get": {{}}}}"#)).collect();
        format!(r#"{{"openapi": "3.0.0", "paths": {{{}}}}}"#, paths.join(","))
    };
    assert_eq!(parse(&paths(MAX_OPERATIONS)).unwrap().operations.len(), MAX_OPERATIONS);
    refuse(&paths(MAX_OPERATIONS + 1), "more than 10000 operations");

    // One description, a thousand times.
    let items: Vec<_> =
        (0..1000).map(|index| format!(r##""/{index}": {{"$ref": "#/paths/~1a"}}"##)).collect();
    let text = "t".repeat(100_000);
    let text = format!(
        r#"{{"openapi": "3.0.0", "paths": {{"/a": {{"get": {{"description": "{text}"}}}}, {}}}}}"#,
        items.join(",")
    );
    let operations = parse(&text).unwrap().operations;
    let described: usize = operations.iter().filter_map(|it| it.description.as_deref()).map(str::len).sum();
    assert_eq!((operations.len(), described), (1001, 4_100_000));
}

#[test]
fn bombs_do_not_go_off() {
    refuse(&format!("{{\"openapi\": {}", "[".repeat(1_000_000)), "recursion limit");
    refuse(&format!("openapi: {}", "[".repeat(1_000_000)), "as YAML: ");
    let deep: String = (0..1000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    refuse(&deep, "as YAML: ");
    // Nine times nine times nine and so on.
    let mut laughs = "openapi: 3.0.0\na0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for level in 1..12 {
        let before = vec![format!("*a{}", level - 1); 9].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    refuse(&laughs, "as YAML: ");
    // A long text, many times.
    let copies = "- *t\n".repeat(20_000);
    let long = format!("openapi: 3.0.0\nt: &t {}\nx:\n{copies}", "t".repeat(1_000_000));
    refuse(&long, "as YAML: ");
}
