//! Which rights the agent needs, and what it says when it lacks one: tested by taking each away.

use std::fs;
use std::process::{Command, Output};
use std::time::Duration;

use tests::agent::{Agent, AgentBuilder, binary};
use tests::app::{App, Server};
use tests::client::{Address, Request};
use tests::eventually::eventually;
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::scratch::Scratch;

/// Names of capabilities, as setpriv(1) has them, and what they are called everywhere else.
const NEEDED: [(&str, &str); 3] =
    [("bpf", "CAP_BPF"), ("perfmon", "CAP_PERFMON"), ("sys_ptrace", "CAP_SYS_PTRACE")];
/// The numbers of what is kept (include/uapi/linux/capability.h).
const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_PTRACE: u64 = 1 << 19;
const NO_PERMISSION: i32 = 77;
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug)]
enum User {
    /// Without root's rights.
    Root,
    /// 65534, with rights of its own.
    Nobody,
}

/// Words that start a program as this user with these capabilities and no others.
fn with(user: User, capabilities: &[&str]) -> Vec<String> {
    let list = |sign: &str| capabilities.iter().map(|name| format!(",{sign}{name}")).collect::<String>();
    let own = list("+");
    let words: Vec<String> = match user {
        User::Root => vec![format!("--bounding-set=-all{own}"), format!("--inh-caps=-all{own}")],
        User::Nobody => vec![
            "--reuid=65534".to_owned(),
            "--regid=65534".to_owned(),
            "--clear-groups".to_owned(),
            format!("--inh-caps=-all{own}"),
            format!("--ambient-caps=-all{own}"),
            format!("--bounding-set=-all{own}"),
        ],
    };
    std::iter::once("setpriv".to_owned()).chain(words).collect()
}

#[test]
fn each_missing_right_is_named() {
    let app = App::start(Server::Nginx);
    for user in [User::Root, User::Nobody] {
        for (missing, name) in NEEDED {
            let left: Vec<&str> =
                NEEDED.iter().map(|(name, _)| *name).filter(|name| *name != missing).collect();
            let run = run(user, &left, &["--dry-run", "--pid", &app.pid().to_string()]);
            let said = String::from_utf8_lossy(&run.stderr);
            assert_eq!(run.status.code(), Some(NO_PERMISSION), "{user:?} without {name}: {said}");
            let wanted = format!("missing {name}: run as root, or grant it");
            assert!(said.contains(&wanted), "{user:?} without {name}: {said}");
            assert_eq!(said.matches("missing ").count(), 1, "{user:?} without {name}: {said}");

            let check = self::run(user, &left, &["check"]);
            let said = String::from_utf8_lossy(&check.stdout);
            assert!(
                said.contains(&format!("capabilities   missing {name}\n")),
                "{user:?} without {name}: {said}"
            );
        }
        let none = run(user, &[], &["--dry-run", "--pid", &app.pid().to_string()]);
        let said = String::from_utf8_lossy(&none.stderr);
        assert_eq!(
            (none.status.code(), said.matches("missing ").count()),
            (Some(NO_PERMISSION), 3),
            "{said}"
        );
    }
}

#[test]
fn three_rights_are_enough_and_one_lasts() {
    let _machine = machine::in_company();
    for user in [User::Root, User::Nobody] {
        let (first, second, hub, dir) = (
            App::start(Server::FastApi),
            App::start(Server::FastApi),
            FakeHub::start(),
            Scratch::new("privileges"),
        );
        let file = dir.join("agent.toml");
        let id = tests::agent::CLIENT_ID;
        let config =
            format!("hub_url = \"{}\"\nsync_interval = \"200ms\"\nclient_id = \"{id}\"\n", hub.url());
        let of_first = format!("{config}[[target]]\npid = {}\n", first.pid());
        fs::write(&file, &of_first).expect("a fresh directory can be written to");
        let words = with(user, &NEEDED.map(|(name, _)| name));
        let agent = through(Agent::configured_by(&file), &words).start();
        ask(&first, 3);
        counted(&hub, 3);
        assert_eq!(rights(agent.pid()), [SYS_PTRACE], "{user:?}");

        // What comes later needs no more: another process, and whoever listens on a port.
        let Address::Tcp(address) = second.address() else { panic!("it listens on a port") };
        let of_second = format!("{of_first}[[target]]\nport = {}\n", address.port());
        fs::write(&file, of_second).expect("it is ours");
        assert_eq!(agent.reload().field("targets"), Some(&2.into()));
        ask(&first, 2);
        ask(&second, 4);
        counted(&hub, 9);
        agent.stop();
    }
}

#[test]
fn root_lays_its_rights_down() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::FastApi), FakeHub::start());
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    eventually("the rights are laid down", PATIENCE, || {
        (rights(agent.pid()) == [SYS_PTRACE | DAC_READ_SEARCH]).then_some(())
    });
    ask(&app, 3);
    counted(&hub, 3);
    agent.stop();
}

fn run(user: User, capabilities: &[&str], args: &[&str]) -> Output {
    let words = with(user, capabilities);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(binary()).args(args);
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn through(agent: AgentBuilder, words: &[String]) -> AgentBuilder {
    agent.through(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn ask(app: &App, times: usize) {
    let mut client = app.client();
    (0..times).for_each(|_| drop(client.send(&Request::get("/items"))));
}

fn counted(hub: &FakeHub, want: u64) {
    eventually("the requests are reported", PATIENCE, || (hub.totals().count() >= want).then_some(()));
    assert_eq!(hub.totals().count(), want);
}

/// The sets of permitted capabilities that any thread of a process has, each once.
fn rights(pid: u32) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the agent runs");
    let mut sets: Vec<u64> = tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
        .filter_map(|status| {
            let set = status.lines().find_map(|line| line.strip_prefix("CapPrm:"))?;
            u64::from_str_radix(set.trim(), 16).ok()
        })
        .collect();
    sets.sort_unstable();
    sets.dedup();
    sets
}
