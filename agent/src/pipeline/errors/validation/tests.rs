use super::*;

/// Errors of a body, each as its location joined by spaces, its message and its kind.
#[track_caller]
fn check_with(status: u16, has_allow: bool, body: &str, want: &[[&str; 3]]) {
    let errors = read(status, has_allow, &serde_json::from_str(body).unwrap()).errors;
    let got: Vec<[String; 3]> =
        errors.into_iter().map(|it| [it.location.join(" "), it.message, it.kind]).collect();
    assert_eq!(got, want, "{status} {body}");
}

#[track_caller]
fn check(status: u16, body: &str, want: &[[&str; 3]]) {
    check_with(status, false, body, want);
}

#[test]
fn fastapi_and_django_ninja() {
    let body = r#"{"detail":[
        {"type":"string_too_short","loc":["body","item","name"],"msg":"String should have at least 2 characters",
         "input":"x","ctx":{"min_length":2}},
        {"type":"missing","loc":["body","items",0,"price"],"msg":"Field required"}]}"#;
    let want = [
        ["body item name", "String should have at least 2 characters", "string_too_short"],
        ["body items 0 price", "Field required", "missing"],
    ];
    check(422, body, &want);
    check(400, body, &[]);
    check(422, r#"{"detail":"Unprocessable"}"#, &[]);
    check(422, r#"{"detail":[{"loc":["body"],"msg":"x"},{"loc":"body","msg":"x","type":"y"},7]}"#, &[]);
    check(422, r#"{"detail":[]}"#, &[]);
}

#[test]
fn litestar() {
    let body = r#"{"status_code":400,"detail":"Validation failed for POST /items","extra":[
        {"message":"Expected `int`","key":"item.price","source":"body"},
        {"message":"Missing","key":"page","source":"query"},
        {"message":"Odd"}]}"#;
    let want =
        [["body item price", "Expected `int`", ""], ["query page", "Missing", ""], ["body", "Odd", ""]];
    check(400, body, &want);
    check(422, body, &[]);
    check(400, r#"{"detail":"Bad Request","extra":[{"message":"a","key":"b"}]}"#, &[]);
}

#[test]
fn express_validator() {
    let body = r#"{"errors":[{"type":"field","value":"x","msg":"Invalid value","path":"name","location":"body"},
                             {"type":"field","msg":"Invalid value","path":"a.b[0]","location":"params"}]}"#;
    let want = [["body name", "Invalid value", "field"], ["params a b[0]", "Invalid value", "field"]];
    check(422, body, &want);
    check(400, body, &want);
    check(400, r#"{"errors":[{"type":"alternative","msg":"none","nestedErrors":[]}, "text", null]}"#, &[]);
}

#[test]
fn celebrate_with_joi() {
    check(
        400,
        r#"{"statusCode":400,"error":"Bad Request","message":"Validation failed","validation":{
            "body":{"source":"body","keys":["name","price"],"message":"\"name\" is required"},
            "query":{"source":"query","keys":["page"],"message":"\"page\" must be a number"}}}"#,
        &[
            ["body name", "\"name\" is required", ""],
            ["body price", "\"name\" is required", ""],
            ["query page", "\"page\" must be a number", ""],
        ],
    );
}

#[test]
fn nest() {
    check(
        400,
        r#"{"statusCode":400,"message":["name must be a string","price must be positive"],"error":"Bad Request"}"#,
        &[["", "name must be a string", ""], ["", "price must be positive", ""]],
    );
    check(400, r#"{"message":[],"error":"Bad Request"}"#, &[]);
    check(400, r#"{"message":["a",1]}"#, &[]);
    check(400, r#"{"message":"Unexpected token"}"#, &[]);
}

#[test]
fn fastify() {
    let check_message = |message: &str, want: &[[&str; 3]]| {
        let body = serde_json::json!({ "statusCode": 400, "code": "FST_ERR_VALIDATION", "message": message });
        check(400, &body.to_string(), want);
    };
    check_message(
        "body/name must NOT have fewer than 2 characters",
        &[["body name", "body/name must NOT have fewer than 2 characters", ""]],
    );
    check_message(
        "params/item_id must be integer",
        &[["params item_id", "params/item_id must be integer", ""]],
    );
    check_message(
        "querystring/page must be integer",
        &[["query page", "querystring/page must be integer", ""]],
    );
    check_message(
        "body/items/0/name must be string, and not null, headers/x-id must be integer",
        &[
            ["body items 0 name", "body/items/0/name must be string, and not null", ""],
            ["headers x-id", "headers/x-id must be integer", ""],
        ],
    );
    check_message("body must have required property 'name'", &[]);
    check_message("body/", &[]);
    check_message("nobody/name is here", &[]);
    check(400, r#"{"message":"body/a must be b"}"#, &[["body a", "body/a must be b", ""]]);
    check(400, r#"{"code":"MINE","message":"body/a must be b"}"#, &[]);
}

#[test]
fn hono_with_zod() {
    let issues = r#"[{"code":"too_small","path":["items",0,"name"],"message":"Too small"},{"code":"invalid_type","path":[],"message":"Invalid input"}]"#;
    let want = [["items 0 name", "Too small", "too_small"], ["", "Invalid input", "invalid_type"]];
    check(400, &format!(r#"{{"success":false,"error":{{"name":"ZodError","issues":{issues}}}}}"#), &want);
    let hidden = serde_json::json!({ "success": false, "error": { "name": "ZodError", "message": issues } });
    check(400, &hidden.to_string(), &want);
    check(400, r#"{"success":false,"error":{"name":"ZodError","message":"[not JSON"}}"#, &[]);
    check(400, &format!(r#"{{"success":true,"error":{{"name":"ZodError","issues":{issues}}}}}"#), &[]);
    check(400, &format!(r#"{{"success":false,"error":{{"name":"Error","issues":{issues}}}}}"#), &[]);
}

#[test]
fn adonis() {
    check(
        422,
        r#"{"errors":[{"message":"The email field must be defined","rule":"required","field":"user.email"}]}"#,
        &[["user email", "The email field must be defined", "required"]],
    );
}

#[test]
fn spring() {
    check(
        400,
        r#"{"timestamp":"2026-01-01T00:00:00Z","status":400,"error":"Bad Request","path":"/items","errors":[
            {"codes":["Size.item.name"],"arguments":[],"defaultMessage":"size must be between 2 and 50",
             "objectName":"item","field":"owner.name","rejectedValue":"x","bindingFailure":false,"code":"Size"},
            {"codes":["Max"],"defaultMessage":"must be at most 9","code":"Max"}]}"#,
        &[["item owner name", "size must be between 2 and 50", "Size"], ["", "must be at most 9", "Max"]],
    );
}

#[test]
fn aspnet_core() {
    let body = r#"{"type":"https://tools.ietf.org/html/rfc9110#section-15.5.1","status":400,
        "title":"One or more validation errors occurred.",
        "errors":{"Name":["The Name field is required.","Too short."],"Address.City":["Unknown."],"":["No body."]}}"#;
    let want = [
        ["Name", "The Name field is required.", ""],
        ["Name", "Too short.", ""],
        ["Address City", "Unknown.", ""],
        ["", "No body.", ""],
    ];
    check(400, body, &want);
    check(409, body, &want);
    check(400, r#"{"errors":{"name":"text"}}"#, &[]);
    check(400, r#"{"errors":{}}"#, &[]);
}

#[test]
fn problem_documents_and_json_api() {
    check(
        422,
        r##"{"type":"https://example.net/validation-error","title":"Your request is not valid.","errors":[
            {"detail":"must be a positive integer","pointer":"#/age"},
            {"detail":"must be a colour","pointer":"#/profile/fav~1col%C3%B6r/0"},
            {"detail":"no place"}]}"##,
        &[
            ["body age", "must be a positive integer", ""],
            ["body profile fav/colör 0", "must be a colour", ""],
        ],
    );
    check(
        422,
        r#"{"errors":[{"status":"422","code":"blank","title":"Invalid","source":{"pointer":"/data/attributes/name"}},
                      {"detail":"no such sort","source":{"parameter":"sort"}},
                      {"detail":"too old","source":{"header":"If-Match"}}]}"#,
        &[
            ["body data attributes name", "Invalid", "blank"],
            ["query sort", "no such sort", ""],
            ["header If-Match", "too old", ""],
        ],
    );
    check(
        400,
        r#"{"title":"Your request is not valid.","invalid-params":[{"name":"age","reason":"must be positive"}]}"#,
        &[["age", "must be positive", ""]],
    );
    assert_eq!(json_pointer("#/a%2Fb/%zz/~01/").collect::<Vec<_>>(), ["a/b", "%zz", "~1", ""]);
}

#[test]
fn django_rest_framework() {
    let check = |body: &str, want: &[[&str; 3]]| check_with(400, true, body, want);
    let flat =
        r#"{"name":["This field is required.","Too short."],"non_field_errors":["Passwords differ."]}"#;
    let want = [
        ["body name", "This field is required.", ""],
        ["body name", "Too short.", ""],
        ["body non_field_errors", "Passwords differ.", ""],
    ];
    check(flat, &want);
    check(
        r#"{"owner":{"email":["Enter a valid email."]},"items":[{},{"price":["A valid number is required."]}]}"#,
        &[
            ["body owner email", "Enter a valid email.", ""],
            ["body items 1 price", "A valid number is required.", ""],
        ],
    );
    check(r#"[{},{"name":["This field is required."]}]"#, &[["body 1 name", "This field is required.", ""]]);
    check(r#"["This list may not be empty."]"#, &[]);
    check(r#"{"detail":"JSON parse error"}"#, &[]);
    check(r#"{"name":["This field is required."],"id":7}"#, &[]);
    check(r#"{"name":[]}"#, &[]);
    check("{}", &[]);
    // Without what its views send, and with another status, it may be anything.
    check_with(400, false, flat, &[]);
    check_with(422, true, flat, &[]);
}

#[test]
fn memory_does_not_follow_what_a_body_repeats() {
    let many = vec!["m"; 20_000];
    let long = "x".repeat(60_000);
    let check = |has_allow, body: Value| {
        let found = read(400, has_allow, &body);
        let text: usize = found.errors.iter().map(ValidationError::text).sum();
        assert!(text <= MAX_TEXT + 3 * 60_000 * 25, "{text} bytes");
        assert!(found.errors.len() <= MAX_ERRORS, "{}", found.errors.len());
        assert_eq!(found.errors.len() as u64 + found.dropped, 20_000);
    };
    check(false, serde_json::json!({ "message": many }));
    check(false, serde_json::json!({ "errors": { long.as_str(): many } }));
    check(false, serde_json::json!({ "errors": { ".".repeat(60_000): many } }));
    check(
        false,
        serde_json::json!({ "validation": { "a": { "source": "body", "keys": many, "message": long } } }),
    );
    let nested = (0..100).fold(Value::from(many), |inner, _| serde_json::json!({ "deep": inner }));
    check(true, nested);
}
