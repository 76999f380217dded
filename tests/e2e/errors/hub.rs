//! A hub that is away, or answers nonsense: the agent goes on, says so in one line, and loses nothing that the
//! protocol lets it keep.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use tests::agent::{Agent, LogLine, Stopped};
use tests::app::{App, Server};
use tests::client::{Exchange, Request};
use tests::eventually::{eventually, let_pass};
use tests::fake_hub::{FakeHub, Kind, Reply};
use tests::machine;
use tests::scratch::Scratch;
use tests::totals::Totals;

use super::attempt::assert_serves;

/// Three tries, the waits between them, and a machine under load.
const ROUND: Duration = Duration::from_secs(20);
/// The agent waits 10 s for a reply.
const TIMEOUT: Duration = Duration::from_secs(20);

const IN_TROUBLE: &str = "hub took no message, keeping it for later";
const BACK: &str = "hub is back, everything is delivered";
const LAST_KEPT: &str = "the hub did not take the last messages, they wait on disk for the next agent";

/// What is wrong with a hub, and how the agent calls it.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Away,
    Answers(Reply, &'static str),
}

impl Trouble {
    fn begin(self, hub: &FakeHub) {
        match self {
            Self::Away => hub.go_down(),
            Self::Answers(reply, _) => hub.reply_with(reply),
        }
    }

    fn end(self, hub: &FakeHub) {
        match self {
            Self::Away => hub.come_back(),
            Self::Answers(..) => hub.reply_with(202),
        }
    }

    fn cause(self) -> &'static str {
        match self {
            Self::Away => "connection refused",
            Self::Answers(_, cause) => cause,
        }
    }
}

const TROUBLES: [Trouble; 6] = [
    Trouble::Away,
    Trouble::Answers(Reply::Status(503), "answered with status 503"),
    Trouble::Answers(Reply::Status(402), "answered with status 402"),
    Trouble::Answers(Reply::Status(301), "answered with status 301"),
    Trouble::Answers(Reply::Garbage, "invalid HTTP version parsed"),
    Trouble::Answers(Reply::HangUp, "connection closed without a reply"),
];

#[test]
fn counts_arrive_once_when_a_hub_in_trouble_recovers() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    // One agent for each trouble, all watching the same target: most of the time is spent waiting.
    let cases = TROUBLES.map(|trouble| {
        let hub = FakeHub::start();
        trouble.begin(&hub);
        let agent = Agent::watching(app.pid()).reporting_to(&hub).sync_interval("1s").start();
        (trouble, hub, agent)
    });
    let mut exchanges = requests(&app, 10);
    for (trouble, hub, agent) in &cases {
        let line = eventually(&format!("a line about {trouble:?}"), ROUND, || warning(agent, IN_TROUBLE));
        record(&format!("{trouble:?}"), &line);
        assert_eq!(line.field("cause").and_then(|cause| cause.as_str()), Some(trouble.cause()), "{line:?}");
        assert_eq!(hub.totals().count(), 0, "{trouble:?}");
    }
    exchanges.extend(requests(&app, 10));
    for (trouble, hub, _) in &cases {
        trouble.end(hub);
    }
    for (trouble, hub, agent) in cases {
        hub.eventually_counts("GET", "/items", 200, exchanges.len() as u64);
        eventually("a line that says it is over", ROUND, || info(&agent, BACK));
        let stopped = agent.stop();
        assert_same(&exchanges, hub.totals());
        assert_eq!(hub.duplicates(), [""; 0], "{trouble:?}");
        assert_eq!(stopped.ledger().get("reported"), exchanges.len() as u64, "{trouble:?}");
        assert_quiet(&stopped);
    }
    assert_serves(&app);
}

#[test]
fn counts_arrive_once_when_a_silent_hub_speaks_again() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::Nginx), FakeHub::start());
    hub.reply_with(Reply::Silence);
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    let mut exchanges = requests(&app, 10);
    let failed = eventually("a try that timed out", TIMEOUT, || {
        agent.log().into_iter().find(|line| line.message() == Some("a try failed"))
    });
    record("a silent hub, at debug level", &failed);
    assert_eq!(failed.field("cause").and_then(|cause| cause.as_str()), Some("timed out"), "{failed:?}");
    exchanges.extend(requests(&app, 1));
    hub.reply_with(202);
    hub.eventually_counts("GET", "/items", 200, exchanges.len() as u64);
    let stopped = agent.stop();
    assert_eq!(hub.duplicates(), [""; 0]);
    assert_eq!(stopped.ledger().get("reported"), exchanges.len() as u64);
    assert_quiet(&stopped);
    assert_serves(&app);
}

#[test]
fn counts_arrive_when_the_name_of_the_hub_is_found_at_last() {
    let _machine = machine::in_company();
    let (app, hub, dir) = (App::start(Server::Nginx), FakeHub::start(), Scratch::new("names"));
    let hosts = dir.join("hosts");
    fs::write(&hosts, "").expect("it is ours");
    fs::write(dir.join("nsswitch.conf"), "hosts: files\n").expect("it is ours");
    let url = hub.url().replace("127.0.0.1", "hub.invalid");
    let agent = Agent::watching(app.pid())
        .through(&with_own_files(&dir, &["hosts", "nsswitch.conf"]).each_ref().map(String::as_str))
        .reporting_to_url(&url)
        .start();
    let exchanges = requests(&app, 10);
    let line = eventually("a line about the name", ROUND, || warning(&agent, IN_TROUBLE));
    record("a host name that does not exist", &line);
    assert_eq!(line.field("cause").and_then(|cause| cause.as_str()), Some("host name not found"));
    fs::write(&hosts, "127.0.0.1 hub.invalid\n").expect("it is ours");
    hub.eventually_counts("GET", "/items", 200, exchanges.len() as u64);
    let stopped = agent.stop();
    assert_same(&exchanges, hub.totals());
    assert_quiet(&stopped);
    assert_serves(&app);
}

#[test]
fn certificate_that_nobody_trusts_is_refused_and_the_advice_helps() {
    let _machine = machine::in_company();
    let (app, hub, dir) = (App::start(Server::Nginx), FakeHub::start_tls(), Scratch::new("certificate"));
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    requests(&app, 10);
    let line = eventually("a line about the certificate", ROUND, || warning(&agent, IN_TROUBLE));
    record("a certificate nobody trusts", &line);
    let cause = line.field("cause").and_then(|cause| cause.as_str()).unwrap_or_default();
    assert!(cause.starts_with("certificate not trusted (") && cause.contains("SSL_CERT_FILE"), "{line:?}");
    assert_kept(&agent.stop());
    assert!(hub.received().is_empty(), "nothing may be sent to a hub that cannot prove who it is");

    let file = dir.join("ca.pem");
    fs::write(&file, hub.certificate_pem().expect("it speaks TLS")).expect("it is ours");
    let trusting = ["env".to_owned(), format!("SSL_CERT_FILE={}", file.display())];
    let agent = Agent::watching(app.pid())
        .through(&trusting.each_ref().map(String::as_str))
        .reporting_to(&hub)
        .start();
    let exchanges = requests(&app, 10);
    assert_quiet(&agent.stop());
    assert_same(&exchanges, hub.totals());
    assert_serves(&app);
}

#[test]
fn message_that_the_hub_finds_invalid_is_dropped_and_no_other() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::Nginx), FakeHub::start());
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    let mut exchanges = requests(&app, 10);
    hub.eventually_counts("GET", "/items", 200, 10);
    // From the third message on, each one that is made while requests come has something to tell.
    let received = hub.received_of(Kind::Sync).len();
    eventually("messages with counts", ROUND, || {
        exchanges.extend(requests(&app, 1));
        (hub.received_of(Kind::Sync).len() > received + 2).then_some(())
    });
    hub.reply_to_next(1, Kind::Sync, 422);
    let line = eventually("a line about the refusal", ROUND, || {
        exchanges.extend(requests(&app, 1));
        warning(&agent, "hub refused a message as invalid, it is dropped; please report this")
    });
    record("a hub that answers 422", &line);
    exchanges.extend(requests(&app, 10));
    let stopped = agent.stop();
    let syncs = hub.received_of(Kind::Sync);
    let refused: Vec<_> = syncs.iter().filter(|sync| !sync.accepted()).collect();
    assert_eq!(refused.len(), 1, "it is not sent again: {}", hub.transcript());
    let lost = Totals::of_syncs(refused.iter().map(|sync| &sync.body)).count();
    assert!(lost > 0, "the message had counts: {}", hub.transcript());
    assert_eq!(hub.totals().count() + lost, exchanges.len() as u64, "{}", hub.transcript());
    assert_same(&exchanges, Totals::of_syncs(syncs.iter().map(|sync| &sync.body)));
    assert_eq!(lines_above_info(&stopped).len(), 1, "{stopped:?}");
    assert_serves(&app);
}

#[test]
fn client_id_that_the_hub_does_not_know_stops_sending_for_good() {
    let _machine = machine::in_company();
    for kind in [Kind::Startup, Kind::Sync] {
        let (app, hub) = (App::start(Server::Nginx), FakeHub::start());
        hub.reply_to_next(1, kind, 404);
        let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
        let unknown = |line: &LogLine| {
            line.message().is_some_and(|message| message.starts_with("hub rejected our client id"))
        };
        let line = eventually("a line about the client id", ROUND, || agent.log().into_iter().find(unknown));
        record(&format!("a hub that answers a {kind:?} with 404"), &line);
        assert_eq!(line.level(), Some("ERROR"), "{line:?}");
        assert!(line.message().is_some_and(|message| message.contains("--client-id")), "{line:?}");
        let received = hub.received().len();
        requests(&app, 10);
        // Four times the interval.
        let_pass(Duration::from_secs(2));
        let stopped = agent.stop();
        assert_eq!(hub.received().len(), received, "{}", hub.transcript());
        assert_eq!(stopped.ledger().get("seen"), 10);
        assert_eq!(lines_above_info(&stopped).len(), 1, "{stopped:?}");
        assert_serves(&app);
    }
}

#[test]
fn sigterm_ends_the_agent_in_time_whatever_the_hub_does() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let check = |what: &str, agent: Agent, hub: &FakeHub| {
        requests(&app, 10);
        let stopped = agent.stop(); // asserts that it takes less than 5 s and ends with 0
        record(what, &assert_kept(&stopped));
        assert_eq!(stopped.ledger().get("seen"), 10, "{what}");
        assert_eq!(hub.totals().count(), 0, "{what}");
    };
    for trouble in [Trouble::Away, Trouble::Answers(Reply::Silence, ""), Trouble::Answers(Reply::Garbage, "")]
    {
        let hub = FakeHub::start();
        trouble.begin(&hub);
        let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
        check(&format!("SIGTERM with {trouble:?}"), agent, &hub);
    }

    // A name server that takes questions and never answers.
    let (hub, dir) = (FakeHub::start(), Scratch::new("names"));
    let silent = UdpSocket::bind("127.77.0.1:53").expect("nobody serves names there");
    fs::write(dir.join("resolv.conf"), "nameserver 127.77.0.1\n").expect("it is ours");
    fs::write(dir.join("nsswitch.conf"), "hosts: dns\n").expect("it is ours");
    let agent = Agent::watching(app.pid())
        .through(&with_own_files(&dir, &["resolv.conf", "nsswitch.conf"]).each_ref().map(String::as_str))
        .reporting_to_url("http://hub.invalid")
        .start();
    silent.set_read_timeout(Some(ROUND)).expect("a timeout that is not zero");
    silent.recv(&mut [0; 512]).expect("the agent asks for the name");
    check("SIGTERM with a name server that says nothing", agent, &hub);
    assert_serves(&app);
}

fn requests(app: &App, count: u32) -> Vec<Exchange> {
    (0..count).map(|_| app.client().send_fresh(&Request::get("/items")).exchange).collect()
}

/// Times aside: a client that waits for the processor measures that, and these tests share the machine.
fn assert_same(exchanges: &[Exchange], reported: Totals) {
    let without_times = |mut totals: Totals| {
        totals.0.values_mut().for_each(|row| row.response_times.clear());
        totals
    };
    assert_eq!(without_times(Totals::of(exchanges)), without_times(reported));
}

/// Has the agent see these files of ours instead of those in /etc.
fn with_own_files(dir: &Scratch, names: &[&str]) -> [String; 6] {
    let mounts =
        names.iter().map(|name| format!("mount --bind {} /etc/{name} && ", dir.join(name).display()));
    let script = mounts.collect::<String>() + "exec \"$@\"";
    ["unshare", "--mount", "sh", "-c", &script, "sh"].map(str::to_owned)
}

fn warning(agent: &Agent, message: &str) -> Option<LogLine> {
    find(agent, "WARN", message)
}

fn info(agent: &Agent, message: &str) -> Option<LogLine> {
    find(agent, "INFO", message)
}

fn find(agent: &Agent, level: &str, message: &str) -> Option<LogLine> {
    let of_that_level = |line: &LogLine| line.level() == Some(level) && line.message() == Some(message);
    agent.log().into_iter().find(of_that_level)
}

fn lines_above_info(stopped: &Stopped) -> Vec<&LogLine> {
    stopped.log.iter().filter(|line| matches!(line.level(), Some("WARN" | "ERROR"))).collect()
}

/// At most one line about the trouble in 10 s, and nothing else that should worry anybody.
fn assert_quiet(stopped: &Stopped) {
    let lines = lines_above_info(stopped);
    assert!(lines.iter().all(|line| line.message() == Some(IN_TROUBLE)), "{lines:?}");
    assert!(lines.len() <= 3, "too much was said: {lines:?}");
}

/// Says that the last messages are lost, and how many; gives that line.
fn assert_kept(stopped: &Stopped) -> LogLine {
    let line = stopped.log.iter().rfind(|line| line.message() == Some(LAST_KEPT));
    let line = line.unwrap_or_else(|| panic!("nothing was said about the last messages: {stopped:?}"));
    assert_eq!(line.level(), Some("WARN"));
    assert!(line.field("messages").is_some_and(|messages| messages.as_u64() > Some(0)), "{line:?}");
    line.clone()
}

/// For whoever runs the tests with --nocapture.
fn record(what: &str, line: &LogLine) {
    eprintln!("{what} -> keeps running -> {}", line.text);
}
