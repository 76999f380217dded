//! Flags and values that cannot be used.

use tests::agent::CLIENT_ID;
use tests::machine;

use super::attempt::{Attempt, USAGE};

#[test]
fn value_that_means_nothing_is_refused_with_what_to_write_instead() {
    let check = |args: &str, parts: &[&str]| Attempt::of(args).run().assert_refused(USAGE, parts);
    let _machine = machine::in_company();
    check("", &["nothing to watch", "--pid PID", "--port PORT"]);
    check("--dry-run", &["nothing to watch"]);
    check("--pid 1", &["no client id", "--client-id UUID", "APITALLY_CLIENT_ID", "--dry-run"]);
    check("--pid 1 --client-id 42", &["client id is not a UUID", r#""42""#, "dashboard"]);
    check("--pid 1 --client-id 00000000-0000-0000-0000-000000000000", &["client id is not a UUID"]);
    check("--pid 1 --dry-run --client-id 42", &["client id is not a UUID"]);
    let with_id = format!("--pid 1 --client-id {CLIENT_ID}");
    check(&format!("{with_id} --env pre/prod"), &["environment name", r#""pre/prod""#, "1 to 32"]);
    check(&format!("{with_id} --hub-url gopher://hub"), &["hub URL", "`gopher`", "https"]);
    check(&format!("{with_id} --hub-url hub.apitally.io"), &["hub URL", "https://hub.apitally.io"]);
    check("--pid 1 --pid 1 --dry-run", &["--pid 1 is given twice"]);
    check("--port 80,80 --dry-run", &["--port 80 is given twice"]);
    check("--pid 1 --dry-run --consumer-header a:b", &["not a header name", "X-API-Key"]);
    check("--pid 1 --dry-run --sync-interval 1ms", &["--sync-interval", "at least 100ms"]);
    check("--pid 1 --dry-run --ring-bytes 5000", &["--ring-bytes", "power of two"]);
    check(
        "--pid 1 --metrics-listen localhost",
        &["--metrics-listen", r#""localhost""#, "a port", "0.0.0.0:9464"],
    );
    check("--port 9464 --metrics-listen 9464", &["--port 9464", "the agent itself", "--metrics-listen"]);
}

#[test]
fn value_from_the_environment_is_refused_like_a_flag() {
    let _machine = machine::in_company();
    let check = |name: &str, value: &str, part: &str| {
        let attempt = Attempt::of("--pid 1 --dry-run").env(name, value);
        attempt.run().assert_refused(USAGE, &[&format!("{name}: "), part]);
    };
    check("APITALLY_CLIENT_ID", "", "client id is not a UUID: saw \"\"");
    check("APITALLY_CLIENT_ID", "my app", "saw \"my app\"");
    check("APITALLY_ENV", "", "environment name is not usable: saw \"\"");
    check("APITALLY_ENV", "größe", "saw \"größe\"");
    check("APITALLY_HUB_BASE_URL", "hub", "hub URL is not a URL: saw \"hub\"");
}

#[test]
fn value_with_line_breaks_gets_one_line_too() {
    let _machine = machine::in_company();
    let check = |flag: &str, value: &str, part: &str| {
        let attempt = Attempt::of("--pid 1 --dry-run").arg(flag).arg(value);
        attempt.run().assert_refused(USAGE, &[part]);
    };
    check("--client-id", "two\nlines", "client id is not a UUID");
    check("--env", "prod\n", "environment name");
    check("--hub-url", "two\nlines\x1b[31m", "hub URL");
    check("--consumer-header", "X-A\r\nX-B", "not a header name");
}

#[test]
fn bad_flag_is_a_usage_error() {
    let check = |args: &str, parts: &[&str]| Attempt::of(args).run().assert_usage_error(parts);
    let _machine = machine::in_company();
    check("--frobnicate", &["unexpected argument '--frobnicate'"]);
    check("frobnicate", &["unrecognized subcommand 'frobnicate'"]);
    check("--pid", &["a value is required for '--pid"]);
    check("--pid one --dry-run", &["invalid value 'one' for '--pid"]);
    check("--pid -1 --dry-run", &["unexpected argument '-1'"]);
    check("--pid 4294967296 --dry-run", &["invalid value '4294967296' for '--pid"]);
    check("--port 0 --dry-run", &["0 is not in 1..=65535"]);
    check("--port 70000 --dry-run", &["70000 is not in 1..=65535"]);
    check("--sync-interval soon --pid 1", &["invalid value 'soon' for '--sync-interval"]);
    check("--log-level loud --pid 1", &["invalid value 'loud'", "error, warn, info, debug, trace"]);
    check("--pid 1 check", &["cannot be used with"]);
    check("completions tcsh", &["invalid value 'tcsh'", "bash"]);
}

#[test]
fn what_is_asked_of_the_program_itself_is_no_error() {
    let check = |args: &str, parts: &[&str]| Attempt::of(args).run().assert_printed(0, parts);
    let _machine = machine::in_company();
    check("--help", &["Usage: ", "--client-id <UUID>", "--dry-run"]);
    check("-h", &["Usage: "]);
    check("check --help", &["--port <PORT>"]);
    check("--version", &["apitally-agent 0."]);
    check("completions bash", &["complete -F", "--client-id"]);
    check("completions zsh", &["#compdef apitally-agent"]);
    check("man", &[".TH apitally-agent"]);
}
