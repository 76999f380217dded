use super::*;

/// Kind, message and traceback of a body; the empty string where it says none.
#[track_caller]
fn check(body: &str, want: [&str; 3]) {
    let error = read(&serde_json::from_str(body).unwrap());
    let got = error.as_ref().map(|it| [it.kind.as_str(), it.message.as_str(), it.traceback.as_str()]);
    assert_eq!(got, Some(want), "{body}");
}

#[track_caller]
fn check_nothing(body: &str) {
    assert_eq!(read(&serde_json::from_str(body).unwrap()), None, "{body}");
}

#[test]
fn each_framework_is_understood() {
    // Express, and error handlers as they are written for it.
    check(
        r#"{"error":{"name":"TypeError","message":"boom","stack":"TypeError: boom\n    at f (/app/a.js:1:2)"}}"#,
        ["TypeError", "boom", "TypeError: boom\n    at f (/app/a.js:1:2)"],
    );
    check(
        r#"{"message":"boom","stack":"RangeError: boom\n    at g"}"#,
        ["RangeError", "boom", "RangeError: boom\n    at g"],
    );
    check(r#"{"error":{"stack":"Error: boom\n    at g"}}"#, ["Error", "boom", "Error: boom\n    at g"]);
    check(r#"{"error":"no such table: items"}"#, ["", "no such table: items", ""]);
    // Fastify, NestJS.
    check(r#"{"statusCode":500,"error":"Internal Server Error","message":" boom "}"#, ["", "boom", ""]);
    check(
        r#"{"statusCode":500,"code":"ECONNREFUSED","error":"Internal Server Error","message":"connect"}"#,
        ["ECONNREFUSED", "connect", ""],
    );
    // Spring Boot, with what it includes on request.
    check(
        r#"{"timestamp":"2026-01-01T00:00:00Z","status":500,"error":"Internal Server Error","path":"/items",
            "exception":"java.lang.IllegalStateException","message":"boom",
            "trace":"java.lang.IllegalStateException: boom\n\tat a.B.c(B.java:1)\n"}"#,
        ["IllegalStateException", "boom", "java.lang.IllegalStateException: boom\n\tat a.B.c(B.java:1)"],
    );
    check(
        r#"{"status":500,"error":"Internal Server Error","trace":"a.Outer$Inner: boom\n\tat a.B"}"#,
        ["Inner", "boom", "a.Outer$Inner: boom\n\tat a.B"],
    );
    // ASP.NET Core, with its page for developers.
    check(
        r#"{"type":"https://tools.ietf.org/html/rfc9110#section-15.6.1","title":"System.InvalidOperationException",
            "status":500,"detail":"boom","exception":{"details":"System.InvalidOperationException: boom\n   at P.M()",
            "headers":{},"path":"/items"},"traceId":"00-1"}"#,
        ["InvalidOperationException", "boom", "System.InvalidOperationException: boom\n   at P.M()"],
    );
    // Laravel.
    check(
        r#"{"message":"boom","exception":"App\\Errors\\Broken","file":"/app/a.php","line":7,"trace":[{"line":1}]}"#,
        ["Broken", "boom", ""],
    );
    // FastAPI: an HTTPException with a text of its own.
    check(r#"{"detail":"the database is away"}"#, ["", "the database is away", ""]);
    // RFC 9457.
    check(
        r#"{"type":"https://example.com/problems/out-of-stock","title":"Out of stock","status":500,"detail":"none left"}"#,
        ["https://example.com/problems/out-of-stock", "none left", ""],
    );
    check(
        r#"{"type":"https://example.com/problems/out-of-stock","title":"Out of stock","status":500}"#,
        ["https://example.com/problems/out-of-stock", "Out of stock", ""],
    );
}

#[test]
fn what_repeats_the_status_says_nothing() {
    check_nothing(r#"{"detail":"Internal Server Error"}"#);
    check_nothing(r#"{"statusCode":500,"message":"Internal server error"}"#);
    check_nothing(r#"{"status":500,"error":"Internal Server Error","message":"","path":"/items"}"#);
    check_nothing(r#"{"error":{"name":"Error","message":"Internal Server Error"}}"#);
    check_nothing(
        r#"{"type":"https://tools.ietf.org/html/rfc9110#section-15.6.1",
            "title":"An error occurred while processing your request.","status":500,"traceId":"00-1"}"#,
    );
    check_nothing(r#"{"type":"about:blank","title":"Internal Server Error","status":500}"#);
    check_nothing(
        r#"{"code":500,"name":"Internal Server Error","description":"The server met a condition"}"#,
    );
    check_nothing(r#"{"name":"Bob","code":"b7"}"#);
    check_nothing(r#"{"message":{"text":"boom"}}"#);
    for body in ["null", "\"boom\"", "500", "[]", "{}", r#"["boom"]"#] {
        check_nothing(body);
    }
}

#[test]
fn long_texts_are_cut_as_the_clients_cut_them() {
    let body = |message: &str, stack: &str| serde_json::json!({ "message": message, "stack": stack });
    let whole = read(&body(&"é".repeat(MAX_MESSAGE), &"ü".repeat(MAX_TRACEBACK))).unwrap();
    assert_eq!((whole.message, whole.traceback), ("é".repeat(MAX_MESSAGE), "ü".repeat(MAX_TRACEBACK)));

    let cut =
        read(&body(&"é".repeat(MAX_MESSAGE + 1), &format!("begin{}end", "ü".repeat(MAX_TRACEBACK)))).unwrap();
    assert_eq!(cut.message, format!("{}... (truncated)", "é".repeat(2033)));
    assert_eq!(cut.traceback.chars().count(), MAX_TRACEBACK);
    assert!(cut.traceback.starts_with("... (truncated) ...\nü") && cut.traceback.ends_with("üend"));

    let kind = read(&serde_json::json!({ "name": "n".repeat(1000), "message": "boom" })).unwrap().kind;
    assert_eq!(kind.len(), MAX_KIND);
}
