use std::fs;

use clap::CommandFactory as _;

use super::*;
use crate::{
    cli::Cli,
    pipeline::{ResponseTime, counters::Distributions, detail::Keep},
    request_log::mask::Style,
    thermostat::Bounds,
};

const ID: &str = "76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9";
const OTHER_ID: &str = "8b5a1c6e-3d7f-4e0a-9c42-5f1d2e3a4b6c";
const TOKEN: &str = "apt_A1b2C3d4E5f6G7h8I9j0K1l2";

fn cli(words: &str) -> Result<Cli, String> {
    let words = words.replace("OTHER", OTHER_ID).replace("ID", ID).replace("TOKEN", TOKEN);
    let words = std::iter::once("apitally-agent").chain(words.split_whitespace());
    Cli::of(words).map_err(|error| error.to_string())
}

fn config(words: &str) -> Result<Config, String> {
    Config::load(&cli(words)?.run).map_err(|error| error.to_string())
}

/// With this file, `agent.toml`. Its directory is taken out of errors.
fn with_file(text: &str, words: &str) -> Result<Config, Box<(ConfigError, String)>> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    fs::write(&path, text.replace("OTHER", OTHER_ID).replace("ID", ID).replace("TOKEN", TOKEN)).unwrap();
    fs::write(dir.path().join("id"), format!("{ID}\n")).unwrap();
    fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
    fs::write(dir.path().join("secret"), "hunter2").unwrap();
    fs::write(dir.path().join("key"), "0123456789abcdef").unwrap();
    fs::write(dir.path().join("names.csv"), "identifier,name\n,Alice\n").unwrap();
    fs::write(dir.path().join("consumers.csv"), "identifier,name\na,Alice\n").unwrap();
    let args = RunArgs { config: Some(path), ..cli(words).unwrap().run };
    Config::load(&args).map_err(|error| {
        let text = error.to_string().replace(&format!("{}/", dir.path().display()), "");
        Box::new((error, text))
    })
}

#[test]
fn what_cannot_be_used_is_named() {
    let check = |words: &str, want: &str| {
        let error = config(words).unwrap_err();
        assert!(error.contains(want), "{words}: {error}");
    };
    check("", "nothing to watch");
    check("--pid 1", "no client id");
    check("--pid 1 --pid 1 --dry-run", "--pid 1 is given twice");
    check("--pid one --dry-run", "invalid value 'one' for '--pid");
    check("--pid -4 --dry-run", "unexpected argument");
    check("--port 0 --dry-run", "0 is not in 1..=65535");
    check("--port 70000 --dry-run", "70000 is not in 1..=65535");
    check("--exe bin/nginx --dry-run", "give the whole path, or \"*/bin/nginx\"");
    check("--unit app@ --dry-run", "'--unit <SYSTEMD-UNIT>': app@ is a template");
    check("--unit a,backup.timer --dry-run", "backup.timer has no processes");
    check("--container a/b --dry-run", "\"a/b\" is no container; give its id");
    check("--unit nginx --unit nginx.service --dry-run", "--unit nginx.service is given twice");
    check("--pid 1 --client-id 42", "--client-id: client id is not a UUID");
    check("--pid 1 --client-id ID --env no/slash", "--env: environment name");
    check("--pid 1 --client-id ID --hub-url gopher://x", "--hub-url: hub URL has the scheme");
    check("--pid 1 --write-token apt_short", "--write-token: write token is not usable");
    check(
        "--pid 1 --write-token TOKEN --client-id ID",
        "--write-token and --client-id are two ways to report",
    );
    check("--pid 1 --otlp-endpoint http://h --client-id ID", "--otlp-endpoint and --client-id");
    check(
        "--pid 1 --dry-run --otlp-endpoint localhost:4318",
        "--otlp-endpoint: OTLP endpoint has the scheme `localhost`",
    );
    check("--pid 1 --otlp-endpoint http://h --otlp-header hunter2", "--otlp-header: a header for the OTLP");
    check("--pid 1 --write-token TOKEN --otlp-header a:b", "--otlp-header goes to a collector");
    check("--pid 1 --dry-run --consumer-header a:b", "--consumer-header: \"a:b\" is not a header name");
    check("--pid 1 --dry-run --sync-interval 1ms", "--sync-interval is 1ms; it must be at least 100ms");
    check("--pid 1 --dry-run --sync-interval soon", "invalid value 'soon'");
    check("--pid 1 --dry-run --ring-bytes 5000", "--ring-bytes is 5000; it must be a power of two");
    check("--pid 1 --dry-run --frobnicate", "unexpected argument");
    check("--pid 1 --dry-run --config /not/there", "cannot read /not/there: No such file");
    check("--pid 1 --dry-run --config /", "cannot read /: Is a directory");
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_place() {
    let check = |text: &str, want: &str| {
        let (error, message) = *with_file(text, "--dry-run").unwrap_err();
        let is_content = !matches!(error, ConfigError::Value(_) | ConfigError::Unreadable { .. });
        assert!(is_content, "{text}: {error:?}");
        assert_eq!(message, want, "{text}");
    };
    // Syntax
    check("[[target]\npid = 1", "agent.toml:1:10: this is no TOML: unclosed array table, expected `]`");
    check("env = \"a\"\nenv = \"b\"", "agent.toml:2:1: this is no TOML: duplicate key");
    // Keys
    check(
        "[[target]]\nport = 1\nclientid = \"x\"",
        "agent.toml:3:1: unknown key `clientid` in [[target]]; did you mean `client_id`?",
    );
    check(
        "Client-Id = \"x\"",
        "agent.toml:1:1: unknown key `Client-Id` at the top level; did you mean `client_id`?",
    );
    check(
        "pid = 1",
        "agent.toml:1:1: unknown key `pid` at the top level; it belongs in a table of its own, [[target]]",
    );
    check(
        "[[target]]\npid = 1\n\nring_bytes = 4096",
        "agent.toml:4:1: unknown key `ring_bytes` in [[target]]; it belongs to the whole agent: write it above the \
         first table",
    );
    check(
        "[[target]]\npid = 1\nconsumers = [{ header = \"x\", zebra = 1 }]",
        "agent.toml:3:30: unknown key `zebra` in [[target.consumers]]; known are `header`, `jwt`, `cookie`, `query`, \
         `client_cert`, `address`, `basic_user`, `in`, `proxies`, `scheme`, `prefix`, `hash`, `allow`",
    );
    check(
        "[[target]]\npid = 1\nconsumers = [{ \"\\u001b]0;\" = 1 }]",
        "agent.toml:3:16: unknown key `\\u{1b}]0;` in [[target.consumers]]; known are `header`, `jwt`, `cookie`, \
         `query`, `client_cert`, `address`, `basic_user`, `in`, `proxies`, `scheme`, `prefix`, `hash`, `allow`",
    );
    // Types
    check(
        "[[target]]\npid = \"7\"",
        "agent.toml:2:7: `pid` in [[target]] is a string, \"7\"; it must be a whole number from 0 to 4294967295",
    );
    check(
        "[[target]]\npid = -7",
        "agent.toml:2:7: `pid` in [[target]] is a whole number, -7; it must be a whole number from 0 to 4294967295",
    );
    check(
        "[[target]]\nport = 0",
        "agent.toml:2:8: `port` in [[target]] is a whole number, 0; it must be a port from 1 to 65535, such as 8000",
    );
    check(
        "[[target]]\nport = 80.5",
        "agent.toml:2:8: `port` in [[target]] is a number, 80.5; it must be a port from 1 to 65535, such as 8000",
    );
    check(
        "target = 7",
        "agent.toml:1:10: `target` at the top level is a whole number, 7; it must be a list of tables, [[target]]",
    );
    check(
        "target = [7]",
        "agent.toml:1:11: `target` at the top level is a whole number, 7; it must be a table, [[target]]",
    );
    check(
        "[target]\npid = 7",
        "agent.toml:1:1: `target` at the top level is a table; it must be a list of tables, [[target]]",
    );
    check(
        "sync_interval = 10",
        "agent.toml:1:17: `sync_interval` at the top level is a whole number, 10; it must be a span of time in quotes, such as \"10s\"",
    );
    check(
        "response_time = \"never\"",
        "agent.toml:1:17: `response_time` at the top level is a string, \"never\"; it must be \"last-byte\" or \"first-byte\"",
    );
    check(
        "consumer_hash = true",
        "agent.toml:1:17: `consumer_hash` at the top level is a truth value, true; it must be \"auto\", \"always\" or \"never\"",
    );
    check(
        "log_level = []",
        "agent.toml:1:13: `log_level` at the top level is a list; it must be \"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
    );
    check(
        "log_format = 1979-05-27",
        "agent.toml:1:14: `log_format` at the top level is a time, 1979-05-27; it must be \"text\" or \"json\"",
    );
    check(
        "state_dir = \"\"",
        "agent.toml:1:13: `state_dir` at the top level is a string, \"\"; it must be a path in quotes",
    );
    check(
        "client_id = 1234",
        "agent.toml:1:13: `client_id` at the top level is a whole number; it must be a string in quotes",
    );
    // Values
    let target = "[[target]]\npid = 7\n";
    let check = |text: &str, want: &str| check(&format!("{target}{text}"), want);
    check(
        "client_id = \"42\"",
        "agent.toml:3:13: client id is not a UUID: saw \"42\"; copy it from the app's settings in the Apitally dashboard (it looks like 76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9)",
    );
    check(
        "client_id_file = \"secret\"",
        "agent.toml:3:18: secret holds no client id: it must be a UUID alone, as the dashboard shows it",
    );
    check(
        "client_id_file = \"id\"\nclient_id = \"ID\"",
        "agent.toml:1:1: [[target]]: `client_id` and `client_id_file` are both given; leave one of them out",
    );
    check(
        "env = \"no/slash\"",
        "agent.toml:3:7: environment name is not usable: saw \"no/slash\"; use 1 to 32 letters, digits, dashes and underscores, best in lower case (like `prod`)",
    );
    check("sync_interval = \"1ms\"", "agent.toml:3:17: `sync_interval` is 1ms; it must be at least 100ms");
    check(
        "client = \"\"",
        "agent.toml:3:10: `client` is \"\"; it must be 1 to 64 letters, digits and any of -_.:, such as python:django",
    );
    check(
        "routes = [\"items\"]",
        "agent.toml:3:10: the path \"items\" does not begin with a slash; write it like /items/{id}",
    );
    check(
        "openapi = \"ftp://h/openapi.json\"",
        "agent.toml:3:11: `openapi`: \"ftp://h/openapi.json\" is no URL that can be fetched: the scheme is ftp; give a \
         file, or an http or https URL",
    );
    check(
        "trailing_slash = true",
        "agent.toml:3:18: `trailing_slash` in [[target]] is a truth value, true; it must be \"strict\" or \"ignore\"",
    );
    check(
        "consumers = [{ header = \"a:b\" }]",
        "agent.toml:3:25: `header`: \"a:b\" is not a header name; write it like X-API-Key",
    );
    check(
        "consumers = [{ hash = \"never\" }]",
        "agent.toml:3:14: [[target.consumers]]: it names no place to look; give it `header`, `jwt`, `cookie`, `query`, \
         `client_cert`, `address` or `basic_user`",
    );
    check(
        "consumers = [{ header = \"a\", cookie = \"b\" }]",
        "agent.toml:3:14: [[target.consumers]]: `header` and `cookie` are different places to look; give each its own \
         entry",
    );
    check(
        "consumers = [{ query = \"a\", in = \"b\" }]",
        "agent.toml:3:14: [[target.consumers]]: `in` goes with `jwt` and `client_cert` alone",
    );
    check(
        "consumers = [{ query = \"a\", proxies = 1 }]",
        "agent.toml:3:14: [[target.consumers]]: `proxies` goes with `address` alone",
    );
    check(
        "consumers = [{ basic_user = false }]",
        "agent.toml:3:29: `basic_user` in [[target.consumers]] is a truth value, false; it must be true, or left out",
    );
    check(
        "consumers = [{ address = \"Via\" }]",
        "agent.toml:3:26: `address` is \"Via\"; it must be \"peer\", or \"X-Forwarded-For\", \"Forwarded\" or \
         \"X-Real-IP\" with the number of `proxies` that are trusted",
    );
    check(
        "consumers = [{ address = \"X-Real-IP\" }]",
        "agent.toml:3:26: `address`: a forwarded address needs to know how many proxies are trusted, at least 1",
    );
    check(
        "consumers = [{ query = \"q\", scheme = \"Bearer\" }]",
        "agent.toml:3:38: `scheme`: a scheme can only be taken off the value of a header",
    );
    check(
        "consumers = [{ query = \"q\", allow = [] }]",
        "agent.toml:3:37: `allow`: an allow list needs at least one value; leave it out to allow all",
    );
    check(
        "consumers = [{ query = \"q\", allow = \"hunter2\" }]",
        "agent.toml:3:37: `allow` in [[target.consumers]] is a string; it must be a list of strings in quotes",
    );
    check(
        "consumer_names = [{ header = \"X-Token\" }]",
        "agent.toml:3:18: `consumer_names`: a name or a group is shown as it is, and this one may be a secret: take it \
         from another header",
    );
    check(
        "consumer_key_file = \"secret\"",
        "agent.toml:3:21: secret: the key has 7 bytes, without blanks around it; it needs at least 16; `openssl rand -hex 32` makes a good one",
    );
    check("consumer_file = \"names.csv\"", "agent.toml:3:17: names.csv:2: the identifier is empty");
    check(
        "port = 80",
        "agent.toml:1:1: [[target]]: `pid` and `port` are two targets; give each a table of its own",
    );
    check(
        "[[target]]",
        "agent.toml:3:1: [[target]]: it names nothing to watch; give it a `pid`, a `port`, an `exe`, a `unit` or a \
         `container`",
    );
    check(
        "[[target]]\nunit = \"app@\"",
        "agent.toml:4:8: `unit`: app@ is a template; name what runs of it, such as app@1.service",
    );
    check("[[target]]\nprot = 7", "agent.toml:4:1: unknown key `prot` in [[target]]; did you mean `port`?");
    check("[[target]]\npid = 7", "agent.toml:4:7: --pid 7 is given twice");
}

#[test]
fn what_is_wrong_with_a_request_log_is_said_with_its_place() {
    let check = |text: &str, want: &str| {
        let (_, message) = *with_file(text, "--dry-run").unwrap_err();
        assert_eq!(message, want, "{text}");
    };
    check(
        "request_log = true",
        "agent.toml:1:15: `request_log` at the top level is a truth value, true; it must be a table, [request_log]",
    );
    check(
        "[request_log]\nenable = true",
        "agent.toml:2:1: unknown key `enable` in [request_log]; did you mean `enabled`?",
    );
    check(
        "[request_log]\nmask_headers = \"x\"",
        "agent.toml:2:16: `mask_headers` in [request_log] is a string; it must be a list of strings in quotes",
    );
    check(
        "[request_log]\nmask_headers = [1]",
        "agent.toml:2:16: `mask_headers` in [request_log] is a list; it must be a list of strings in quotes",
    );
    check(
        "[[target]]\npid = 7\n[target.request_log]\nexclude_paths = [\"^/a\", \"b)\"]",
        "agent.toml:4:17: exclude_paths: pattern 2, \"b)\", is no regular expression that can be used: unopened group \
         (in the notation of Rust's regex crate)",
    );
}

#[test]
fn requests_are_logged_where_the_file_says_so() {
    let logs = |text: &str| {
        let config = with_file(text, "--dry-run").unwrap();
        config.targets.into_iter().map(|target| (target.request_log, target.policy.keep)).collect::<Vec<_>>()
    };
    let targets = "[[target]]\npid = 7\n[[target]]\npid = 8\n";
    assert!(logs(targets).iter().all(|(log, keep)| log.is_none() && !keep.exchanges));
    assert!(
        logs(&format!("[request_log]\nrequest_body = true\n{targets}")).iter().all(|(log, _)| log.is_none())
    );

    let text = format!(
        "[request_log]\nenabled = true\nrequest_headers = true\nmask_headers = [\"^x-id$\"]\n{targets}\
         request_log = {{ request_headers = false, response_body = true, content_types = [\"Text/Plain\"] }}"
    );
    let [(Some(first), _), (Some(second), keep)] = &logs(&text)[..] else { panic!("both are logged") };
    assert!(first.request.headers && !first.response.body && first.response.headers && first.query_params);
    assert!(!second.request.headers && second.response.body);
    assert_eq!(second.masks.header("X-Id", b"7", Style::Hub), "******");
    let want = Keep {
        exchanges: true,
        response_bodies: true,
        content_types: vec!["text/plain".to_owned()],
        errors: true,
        ..Keep::default()
    };
    assert_eq!(*keep, want);

    let text = format!("[request_log]\nenabled = true\n{targets}request_log = {{ enabled = false }}");
    assert_eq!(logs(&text).iter().map(|(log, _)| log.is_some()).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn agent_wide_values_of_a_file_are_checked_too() {
    let check = |text: &str, want: &str| {
        let (_, message) = *with_file(&format!("{text}\n[[target]]\npid = 7"), "--dry-run").unwrap_err();
        assert_eq!(message, want, "{text}");
    };
    check(
        "hub_url = \"ftp://x\"",
        "agent.toml:1:11: hub URL has the scheme `ftp`; only https and http can be used; write it like \
         https://hub.apitally.io, the client id is an option of its own",
    );
    check(
        "ring_bytes = 5000",
        "agent.toml:1:14: `ring_bytes` is 5000; it must be a power of two of at least 4096, such as 8388608",
    );
    check(
        "max_cpu = 0",
        "agent.toml:1:11: `max_cpu` is 0; it must be percent of one core, at least 1, such as 50",
    );
    check(
        "max_memory = 10",
        "agent.toml:1:14: `max_memory` is 10; it must be at least 57 megabytes, 40 beside the ring buffer of 8388608 \
         bytes, which counts twice",
    );
    check(
        "ring_bytes = 4096\nmax_memory = 24",
        "agent.toml:2:14: `max_memory` is 24; it must be at least 41 megabytes, 40 beside the ring buffer of 4096 \
         bytes, which counts twice",
    );
}

#[test]
fn a_target_of_a_file_needs_a_client_id() {
    let (_, message) = *with_file("[[target]]\npid = 7", "").unwrap_err();
    assert!(message.starts_with("agent.toml:2:7: no client id: give --client-id UUID"), "{message}");
    let (_, message) = *with_file("client_id_file = \"none\"\n[[target]]\npid = 7", "").unwrap_err();
    assert!(message.starts_with("agent.toml:1:18: cannot read none: No such file"), "{message}");
    with_file("client_id_file = \"id\"\n[[target]]\npid = 7", "").unwrap();
}

#[test]
fn secrets_are_not_shown() {
    for text in ["client_id_file = \"secret\"", "client_id = [\"hunter2\"]", "client_id = { hunter2 = 1 }"] {
        let (error, message) = *with_file(&format!("{text}\n[[target]]\npid = 7"), "").unwrap_err();
        assert!(!message.contains("hunter2") && !format!("{error:?}").contains("hunter2"), "{message}");
    }
}

#[test]
fn targets_are_kept_in_order() {
    let specs = |config: Config| config.targets.into_iter().map(|target| target.spec).collect::<Vec<_>>();
    let want = [TargetSpec::Pid(7), TargetSpec::Pid(8), TargetSpec::Pid(9), TargetSpec::Port(80)];
    assert_eq!(specs(config("--pid 7,8 --port 80 --pid 9 --dry-run").unwrap()), want);
    let all = "--container web --unit app@1,nginx --exe */a,b --port 80 --dry-run";
    let names = |config: Config| specs(config).iter().map(ToString::to_string).collect::<Vec<_>>();
    let want_names =
        ["--port 80", "--exe */a,b", "--unit app@1.service", "--unit nginx.service", "--container web"];
    assert_eq!(names(config(all).unwrap()), want_names);
    let file = "[[target]]\nport = 80\n[[target]]\nexe = \"*/a,b\"\n[[target]]\nunit = \"app@1\"\n[[target]]\n\
                unit = \"nginx\"\n[[target]]\ncontainer = \"web\"\n";
    assert_eq!(names(with_file(file, "--dry-run").unwrap()), want_names);
    let file = "[[target]]\npid = 9\n[[target]]\nport = 80";
    assert_eq!(specs(with_file(file, "--pid 7 --pid 8 --dry-run").unwrap()), want);
}

#[test]
fn a_flag_beats_the_target_which_beats_the_top_level_which_beats_the_default() {
    let check = |top: &str, own: &str, words: &str, want: &str| {
        let text = format!("client_id = \"ID\"\n{top}\n[[target]]\npid = 7\n{own}");
        let config = with_file(&text, words).unwrap();
        let Delivery::Hub(hub) = &config.targets[0].delivery else { panic!("it reports to a hub") };
        assert_eq!(hub.env.as_str(), want, "{top} {own} {words}");
    };
    check("", "", "", "dev");
    check("env = \"top\"", "", "", "top");
    check("env = \"top\"", "env = \"own\"", "", "own");
    check("env = \"top\"", "env = \"own\"", "--env flag", "flag");
    check("env = \"top\"", "", "--env flag", "flag");
    check("", "env = \"own\"", "--env flag", "flag");
}

/// Every key, so that none is left out when levels are merged.
#[test]
fn each_value_is_taken_from_where_it_is_given() {
    let all = "client_id = \"OTHER\"\nenv = \"b\"\napp_version = \" 2 \"\nclient = \"js:koa\"\nsync_interval = \"2s\"\n\
               response_time = \"first-byte\"\nconsumers = [{ header = \"x-b\" }]\n";
    let check = |config: &Config| {
        let target = &config.targets[0];
        let Delivery::Hub(hub) = &target.delivery else { panic!("it reports to a hub") };
        assert_eq!((hub.client_id.to_string().as_str(), hub.env.as_str()), (OTHER_ID, "b"));
        assert_eq!(
            (target.app.version.as_deref(), target.app.client.as_deref()),
            (Some("2"), Some("js:koa"))
        );
        assert_eq!(target.sync_interval, Some(Duration::from_secs(2)));
        assert_eq!(target.policy.response_time, ResponseTime::FirstByte);
        assert!(format!("{:?}", target.policy.consumers).contains("x-b"), "{target:?}");
    };
    check(&with_file(&format!("{all}[[target]]\npid = 7"), "").unwrap());
    check(&with_file(&format!("[[target]]\npid = 7\n{all}"), "").unwrap());
    check(&with_file(&format!("client_id = \"ID\"\n[[target]]\npid = 7\n{all}"), "").unwrap());
    let words = "--client-id OTHER --env b --app-version 2 --sync-interval 2s --response-time first-byte \
                 --consumer-header x-b";
    let file = "client_id = \"ID\"\nenv = \"a\"\napp_version = \"1\"\nsync_interval = \"1s\"\n\
                response_time = \"last-byte\"\nconsumers = [{ header = \"x-a\" }]\nclient = \"js:koa\"\n";
    check(&with_file(&format!("{file}[[target]]\npid = 7"), words).unwrap());
    check(&with_file(&format!("[[target]]\npid = 7\n{file}"), words).unwrap());

    let agent = "hub_url = \"http://b\"\nstate_dir = \"/b/s\"\nruntime_dir = \"/b/r\"\nrecord = \"/b/f\"\n\
                 metrics_listen = \"[::1]:1\"\nring_bytes = 4096\nmax_cpu = 5\nmax_memory = 99\n\
                 log_level = \"trace\"\nlog_format = \"json\"\n";
    let flags = "--hub-url http://b --state-dir /b/s --runtime-dir /b/r --record /b/f --ring-bytes 4096 \
                 --metrics-listen [::1]:1 --max-cpu 5 --max-memory 99 --log-level trace --log-format json";
    let want = AgentConfig {
        record: Some("/b/f".into()),
        state_dir: "/b/s".into(),
        runtime_dir: "/b/r".into(),
        metrics_listen: Some(([0, 0, 0, 0, 0, 0, 0, 1], 1).into()),
        ring_bytes: 4096,
        bounds: Bounds { cpu_percent: 5, memory: 99_000_000 },
        log_level: LogLevel::Trace,
        log_format: LogFormat::Json,
    };
    let target = "client_id = \"ID\"\n[[target]]\npid = 7";
    let others = agent.replace("/b/", "/a/").replace("//b", "//a").replace("4096", "8192");
    let others =
        others.replace("trace", "warn").replace("json", "text").replace("]:1", "]:2").replace("= 5", "= 6");
    for config in [
        with_file(&format!("{agent}{target}"), "").unwrap(),
        with_file(target, flags).unwrap(),
        with_file(&format!("{others}{target}"), flags).unwrap(),
    ] {
        assert_eq!(config.agent, want);
        let Delivery::Hub(hub) = &config.targets[0].delivery else { panic!("it reports to a hub") };
        assert_eq!(hub.base_url.to_string(), "http://b");
    }
}

#[test]
fn paths_begin_where_the_file_lies() {
    let config = with_file("state_dir = \"s\"\n[[target]]\npid = 7", "--dry-run").unwrap();
    assert!(config.agent.state_dir.is_absolute() && config.agent.state_dir.ends_with("s"), "{config:?}");
}

#[test]
fn one_flag_does_not_make_two_apps_one() {
    let file = "client_id = \"ID\"\n[[target]]\npid = 7\n[[target]]\npid = 8\n";
    with_file(file, "--client-id OTHER --env b").unwrap();
    with_file(&format!("{file}client_id = \"ID\""), "--client-id OTHER").unwrap();
    let (error, message) =
        *with_file(&format!("{file}client_id = \"OTHER\""), "--client-id OTHER").unwrap_err();
    assert!(matches!(error, ConfigError::Value(_)), "{error:?}");
    assert!(message.starts_with("--client-id is one value for targets that"), "{message}");
    let (_, message) = *with_file(&format!("{file}env = \"a\""), "--env b").unwrap_err();
    assert!(message.starts_with("--env is one value for targets that"), "{message}");
}

#[test]
fn a_recorded_target_is_counted_as_its_table_says() {
    let text = "response_time = \"first-byte\"\n[[target]]\npid = 7\napp_version = \"seven\"\n[[target]]\nport = 80\n\
                app_version = \"eighty\"";
    let load = |text: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        fs::write(&path, text).unwrap();
        let count = cli("").unwrap().run.count;
        ReplayConfig::load(&ReplayArgs { file: "tap".into(), config: Some(path), count }).unwrap()
    };
    let config = load(text);
    let version = |config: &ReplayConfig, pid, ports: &[u16]| config.of(pid, ports).1.version.clone();
    assert_eq!(version(&config, 7, &[]).as_deref(), Some("seven"));
    assert_eq!(version(&config, 1, &[80]).as_deref(), Some("eighty"));
    assert_eq!(version(&config, 1, &[]), None);
    assert_eq!(config.of(1, &[]).0.response_time, ResponseTime::FirstByte);
    let alone = load(text.rsplit_once("[[target]]").unwrap().0);
    assert_eq!(version(&alone, 1, &[]).as_deref(), Some("seven"));
}

#[test]
fn what_a_collector_gets_is_not_hashed_with_a_key_that_all_know() {
    let target = "[[target]]\npid = 7\n";
    let refused = |text: &str, words: &str, want: &str| {
        let (_, message) = *with_file(text, words).unwrap_err();
        let (place, rest) =
            message.split_once(": what this rule finds would be sent as a keyed hash").unwrap();
        assert_eq!(place, want, "{text} {words}");
        assert!(rest.contains("`consumer_key_file`") && rest.contains("\"never\""), "{rest}");
    };
    let to = "otlp_endpoint = \"http://h\"\n";
    let secret = format!("{target}consumers = [{{ basic_user = true }}, {{ header = \"X-API-Key\" }}]\n");
    refused(&format!("{secret}{to}"), "", "agent.toml:3:48: `header`");
    refused(&format!("{secret}{to}"), "--dry-run", "agent.toml:3:48: `header`");
    refused(&secret, "--otlp-endpoint http://h", "agent.toml:3:48: `header`");
    refused(&format!("{to}{target}"), "--consumer-header X-Token", "--consumer-header");
    let plain = format!("{to}{target}consumers = [{{ basic_user = true }}]\n");
    refused(&format!("{plain}consumer_hash = \"always\""), "", "agent.toml:4:29: `basic_user`");
    refused(&plain, "--consumer-hash always", "agent.toml:4:29: `basic_user`");

    let used =
        |text: &str, words: &str| assert_eq!(with_file(text, words).unwrap().targets.len(), 1, "{text}");
    used(&plain, "");
    used(&format!("{plain}consumer_file = \"consumers.csv\""), "");
    used(&format!("{secret}{to}consumer_key_file = \"key\""), "");
    used(&format!("{secret}{to}"), "--consumer-hash never");
    used(&format!("{secret}{to}"), "--write-token TOKEN");
    used(&secret, "--client-id ID");
    used(&secret, "--dry-run");
}

#[test]
fn what_any_user_can_read_and_better_could_not_is_warned_about() {
    use std::os::unix::fs::PermissionsExt as _;
    let warnings = |mode, text: &str, words: &str| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        let text = text.replace("ID", ID).replace("TOKEN", TOKEN);
        for (name, content) in [("agent.toml", text.as_str()), ("id", ID), ("key", "0123456789abcdef")] {
            fs::write(dir.path().join(name), content).unwrap();
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let config = Config::load(&RunArgs { config: Some(path), ..cli(words).unwrap().run }).unwrap();
        let warnings = config.targets[0].warnings.iter().map(|warning| match warning {
            Warning::OpenKey { path } => ("key", path),
            Warning::OpenToken { path } => ("token", path),
            Warning::OpenClientId { path } => ("client id", path),
        });
        let named = warnings.map(|(what, path)| format!("{what} in {}", path.file_name().unwrap().display()));
        named.collect::<Vec<_>>()
    };
    let target = "[[target]]\npid = 7\n";
    let token = format!("{target}write_token = \"TOKEN\"");
    assert_eq!(warnings(0o644, &token, ""), ["token in agent.toml"]);
    assert_eq!(warnings(0o640, &token, ""), [""; 0]);
    assert_eq!(warnings(0o644, target, "--write-token TOKEN"), [""; 0]);

    // A client id names an app. It is a secret where hashes are made by it.
    let id = format!("{target}client_id = \"ID\"\n");
    let hashed = format!("{id}consumers = [{{ header = \"X-API-Key\" }}]\n");
    assert_eq!(warnings(0o644, &id, ""), [""; 0]);
    assert_eq!(warnings(0o644, &hashed, ""), ["client id in agent.toml"]);
    assert_eq!(warnings(0o600, &hashed, ""), [""; 0]);
    assert_eq!(warnings(0o644, &hashed, "--consumer-hash never"), [""; 0]);
    assert_eq!(
        warnings(0o644, &hashed.replace("client_id = \"ID\"", "client_id_file = \"id\""), ""),
        ["client id in id"]
    );
    assert_eq!(warnings(0o644, &format!("{hashed}consumer_key_file = \"key\""), ""), ["key in key"]);
}

#[test]
fn who_gave_a_value_is_known() {
    let text = "client_id = \"ID\"\nlog_level = \"debug\"\n[[target]]\npid = 7\nconsumers = [{ basic_user = true }]\n\
                [target.request_log]\nenabled = true";
    let config = with_file(text, "--env prod").unwrap();
    let places = |origins: &Origins| {
        let place = |(key, origin): &(&'static str, Origin)| {
            let place = origin.place(key);
            format!("{key} {}", place.rsplit('/').next().unwrap_or_default())
        };
        origins.iter().map(place).collect::<Vec<_>>()
    };
    assert_eq!(places(&config.origins), ["log_level agent.toml:2:13"]);
    let want = [
        "client_id agent.toml:1:13",
        "env --env",
        "consumers agent.toml:5:13",
        "request_log.enabled agent.toml:7:11",
    ];
    assert_eq!(places(&config.targets[0].origins), want);
}

#[test]
fn a_target_reports_one_way_that_of_the_nearest_level() {
    let check = |text: &str, words: &str, want: &[&str]| {
        let config = with_file(text, words).unwrap();
        let way = |target: &TargetConfig| match &target.delivery {
            Delivery::Hub(_) => "hub".to_owned(),
            Delivery::Stdout => "stdout".to_owned(),
            Delivery::Otlp(to) => format!("{} {:?}", to.endpoint, to.destination),
            Delivery::OtlpStdout(to) => format!("stdout {} {:?}", to.endpoint, to.destination),
            Delivery::Nowhere => "nowhere".to_owned(),
        };
        assert_eq!(config.targets.iter().map(way).collect::<Vec<_>>(), want, "{text} {words}");
        for target in &config.targets {
            let is_hub = matches!(target.delivery, Delivery::Hub(_) | Delivery::Stdout);
            let want = if is_hub { Distributions::Linear } else { Distributions::Exponential };
            assert_eq!(target.policy.distributions, want);
        }
    };
    let (apitally, collector) = ("https://otlp.apitally.io Apitally(***)", "http://h Collector([])");
    let one = "[[target]]\npid = 7\n";
    check(one, "--write-token TOKEN", &[apitally]);
    check(one, "--otlp-endpoint http://h", &[collector]);
    check(one, "--otlp-endpoint http://h --otlp-header a:hunter2", &["http://h Collector([a: ***])"]);
    check(one, "--otlp-endpoint http://h/x --write-token TOKEN", &["http://h/x Apitally(***)"]);
    check(one, "--write-token TOKEN --dry-run", &["stdout https://otlp.apitally.io Apitally(***)"]);
    check(&format!("{one}write_token_file = \"token\""), "", &[apitally]);
    check(
        &format!("{one}otlp_endpoint = \"http://h\"\notlp_headers = [\"a: hunter2\"]"),
        "",
        &["http://h Collector([a: ***])"],
    );
    let two = "[[target]]\npid = 7\n[[target]]\npid = 8\n";
    check(&format!("client_id = \"ID\"\n{two}write_token = \"TOKEN\""), "", &["hub", apitally]);
    check(&format!("write_token = \"TOKEN\"\n{two}client_id = \"ID\""), "", &[apitally, "hub"]);
    check(
        &format!("otlp_endpoint = \"http://h\"\n{two}write_token = \"TOKEN\""),
        "",
        &[collector, "http://h Apitally(***)"],
    );
    check(&format!("client_id = \"ID\"\n{one}"), "--write-token TOKEN", &[apitally]);

    let (_, message) = *with_file(&format!("{one}write_token_file = \"secret\""), "").unwrap_err();
    assert!(message.contains("secret holds no write token") && !message.contains("hunter2"), "{message}");
    let (_, message) = *with_file(&format!("{one}otlp_headers = [\"hunter2\", 5]"), "").unwrap_err();
    assert!(message.contains("must be a list of strings") && !message.contains("hunter2"), "{message}");
}

const SAMPLE: &str = include_str!("../../../docs/agent.toml");
const REFERENCE: &str = include_str!("../../../docs/configuration.md");

/// The keys that each kind of table knows, as its errors list them.
fn known_keys() -> Vec<String> {
    let tables = [
        "[kubernetes]\n",
        "[[kubernetes.pods]]\n",
        "[[target]]\n",
        "[[target]]\nconsumers = [{ 0 = 0 }]\n",
        "[request_log]\n",
        "",
    ];
    let unknown = tables.map(|table| with_file(&format!("{table}0 = 0"), "").unwrap_err().1);
    let lists = unknown.iter().map(|error| error.split_once("known are ").expect("a list of keys").1);
    let keys = lists.flat_map(|list| list.split(", "));
    keys.map(|key| key.trim_matches('`').to_owned())
        .filter(|key| !["target", "request_log", "kubernetes", "pods"].contains(&key.as_str()))
        .collect()
}

#[test]
fn the_sample_and_the_reference_have_every_key() {
    let keys = known_keys();
    assert!(keys.len() > 20, "{keys:?}");
    for key in keys {
        let is_in_line = |line: &str| {
            let words = line.trim_start_matches(['#', ' ', '{']);
            words.strip_prefix(&key).is_some_and(|rest| rest.starts_with(" = "))
                || line.contains(&format!(" {key} = "))
        };
        assert!(SAMPLE.lines().any(is_in_line), "the sample has no `{key}`");
        let is_in_row = |line: &str| {
            let first = line.strip_prefix("| ").and_then(|line| line.split(" | ").next());
            first.is_some_and(|cell| cell.contains(&format!("`{key}`")))
        };
        let is_named = REFERENCE.lines().any(is_in_row) || matches!(key.as_str(), "in" | "proxies");
        assert!(is_named, "the reference has no `{key}`");
    }
}

#[test]
fn the_sample_can_be_used_as_it_is_and_with_everything_in_it() {
    let lines = SAMPLE
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line));
    let lines = lines
        .map(|line| {
            ["blog.id", "docs.id", "shop.id"].iter().fold(line.to_string(), |line, id| line.replace(id, "id"))
        })
        .map(|line| line.replace("shop.token", "token"))
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(with_file(SAMPLE, "").unwrap().targets.len(), 1);
    let everything = with_file(&lines.replace("#    {", "    {"), "").unwrap();
    assert_eq!(everything.targets.len(), 7);
}

#[test]
fn what_the_packages_bring_says_nothing_until_it_is_filled_in() {
    let packaged = include_str!("../../../deploy/agent.toml");
    let (error, _) = *with_file(packaged, "").unwrap_err();
    assert!(matches!(error, ConfigError::NoTarget), "{error:?}");
    let lines = packaged.lines();
    let filled =
        lines.map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line));
    let config = with_file(&filled.collect::<Vec<_>>().join("\n"), "").unwrap();
    assert_eq!(config.targets[0].spec.to_string(), "--unit shop.service");
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_tells_the_real_defaults() {
    let help = Cli::command().render_help().to_string().replace('\n', " ");
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let config = config("--pid 1 --client-id ID").unwrap();
    let Delivery::Hub(hub) = &config.targets[0].delivery else { panic!("it reports to a hub") };
    let AgentConfig { ring_bytes, bounds, .. } = &config.agent;
    let numbers = [u64::from(*ring_bytes), bounds.cpu_percent.into(), bounds.memory / MEGABYTE];
    let texts = [hub.env.to_string(), hub.base_url.to_string()];
    for default in texts.into_iter().chain(numbers.map(|number| number.to_string())) {
        assert!(help.contains(&format!("[default: {default}]")), "{default} is not in {help}");
    }
    for directory in [DEFAULT_STATE_DIR, DEFAULT_RUNTIME_DIR] {
        assert!(help.contains(&format!("else {directory}]")), "{directory} is not in {help}");
    }
}

#[test]
fn metrics_are_served_where_they_are_asked_for() {
    let check = |words: &str, want: &str| {
        let config = config(&format!("--pid 1 --dry-run --metrics-listen {words}")).unwrap();
        assert_eq!(config.agent.metrics_listen.unwrap().to_string(), want, "{words}");
    };
    check("9464", "127.0.0.1:9464");
    check(":9464", "127.0.0.1:9464");
    check("0", "127.0.0.1:0");
    check("0.0.0.0:80", "0.0.0.0:80");
    check("[::]:9464", "[::]:9464");
    for words in ["localhost:9464", "127.0.0.1", "::", "70000", "9464/metrics"] {
        let error = config(&format!("--pid 1 --dry-run --metrics-listen {words}")).unwrap_err();
        assert!(error.starts_with(&format!("--metrics-listen is {words:?}; it must be a port")), "{error}");
    }
    let file = with_file("metrics_listen = \"none\"\n[[target]]\npid = 7", "--dry-run").unwrap_err();
    assert!(file.1.starts_with("agent.toml:1:18: `metrics_listen` is \"none\""), "{}", file.1);
    assert_eq!(config("--pid 1 --dry-run").unwrap().agent.metrics_listen, None);
}

#[test]
fn who_serves_metrics_need_not_report_to_anybody() {
    let delivery = |words: &str| config(words).unwrap().targets.remove(0).delivery;
    assert_eq!(delivery("--pid 1 --metrics-listen 9464"), Delivery::Nowhere);
    assert_eq!(delivery("--pid 1 --metrics-listen 9464 --dry-run"), Delivery::Stdout);
    assert!(matches!(delivery("--pid 1 --metrics-listen 9464 --client-id ID"), Delivery::Hub(_)));
    assert!(matches!(delivery("--pid 1 --metrics-listen 9464 --write-token TOKEN"), Delivery::Otlp(_)));
    let text = "metrics_listen = \"9464\"\n[[target]]\npid = 7\n[target.request_log]\nenabled = true";
    let target = with_file(text, "").unwrap().targets.remove(0);
    assert_eq!((target.delivery, target.request_log.is_some()), (Delivery::Nowhere, false));
    assert_eq!(target.policy.keep, Keep::default());
    let error = config("--port 9464 --metrics-listen 9464").unwrap_err();
    assert!(error.starts_with("--port 9464 is where the agent itself serves its metrics"), "{error}");
}
