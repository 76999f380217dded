//! Which rights the agent needs, and what it says when it lacks one: tested by taking each away.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use tests::agent::{Agent, AgentBuilder, binary};
use tests::app::{App, Server, apps_dir, free_port};
use tests::cgroup::{Cgroup, Hierarchy};
use tests::client::{Address, Client, Request};
use tests::eventually::eventually;
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::process::{ProcessGroup, ending_with_us};
use tests::scratch::Scratch;

/// Names of capabilities, as setpriv(1) has them, and what they are called everywhere else.
const NEEDED: [(&str, &str); 3] =
    [("bpf", "CAP_BPF"), ("perfmon", "CAP_PERFMON"), ("sys_ptrace", "CAP_SYS_PTRACE")];
/// The numbers of what is kept (include/uapi/linux/capability.h).
const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_PTRACE: u64 = 1 << 19;
const NO_PERMISSION: i32 = 77;
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers each connection's request after the time that [`connections_of_other_users_are_seen_to_be_held`] is about.
const SLOW: &str = r#"
import socket, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listener.accept()
    if connection.recv(65536):
        time.sleep(13)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    connection.close()
"#;

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

/// A server that can be meant in every way there is.
struct Everywhere {
    app: App,
    /// Of a unit, in which there is a container.
    unit: String,
    container: String,
    /// Dropped after the server.
    _cgroup: Cgroup,
}

impl Everywhere {
    fn start() -> Self {
        let (unit, container) = (
            format!("apitally-agent-rights-{}.service", std::process::id()),
            format!("d{:063x}", std::process::id()),
        );
        let cgroup =
            Cgroup::new(Hierarchy::OfSystemd, &format!("system.slice/{unit}/docker-{container}.scope"));
        let app = App::start(Server::Nginx);
        cgroup.take(app.pid());
        Self { app, unit, container, _cgroup: cgroup }
    }

    fn words(&self) -> [[String; 2]; 5] {
        let Address::Tcp(address) = self.app.address() else { panic!("nginx listens on a port") };
        [
            ("--pid", self.app.pid().to_string()),
            ("--port", address.port().to_string()),
            ("--exe", "/usr/sbin/nginx".to_owned()),
            ("--unit", self.unit.clone()),
            ("--container", self.container.clone()),
        ]
        .map(|(flag, value)| [flag.to_owned(), value])
    }
}

#[test]
fn each_of_the_three_is_missed_by_every_kind_of_target() {
    let _machine = machine::in_company();
    let target = Everywhere::start();
    let kubernetes = ["--kubernetes".to_owned(), "--env=prod".to_owned()];
    for words in target.words().iter().chain([&kubernetes]) {
        let words = [&["--dry-run"], &words.each_ref().map(String::as_str)[..]].concat();
        for user in [User::Root, User::Nobody] {
            for (missing, name) in NEEDED {
                let left: Vec<&str> =
                    NEEDED.iter().map(|(name, _)| *name).filter(|name| *name != missing).collect();
                let run = run(user, &left, &words);
                let said = String::from_utf8_lossy(&run.stderr);
                let case = format!("{words:?} as {user:?} without {name}: {said}");
                assert_eq!(run.status.code(), Some(NO_PERMISSION), "{case}");
                assert!(said.contains(&format!("missing {name}: run as root, or grant it")), "{case}");
                assert_eq!(said.matches("missing ").count(), 1, "{case}");
            }
            let none = run(user, &[], &words);
            let said = String::from_utf8_lossy(&none.stderr);
            assert_eq!(none.status.code(), Some(NO_PERMISSION), "{words:?} as {user:?}: {said}");
            assert_eq!(said.matches("missing ").count(), NEEDED.len(), "{words:?} as {user:?}: {said}");
        }
    }
    for user in [User::Root, User::Nobody] {
        for (missing, name) in NEEDED {
            let left: Vec<&str> =
                NEEDED.iter().map(|(name, _)| *name).filter(|name| *name != missing).collect();
            let check = run(user, &left, &["check"]);
            let said = String::from_utf8_lossy(&check.stdout);
            let wanted = format!("capabilities   missing {name}\n");
            assert!(said.contains(&wanted), "{user:?} without {name}: {said}");
        }
    }
}

#[test]
fn the_three_are_enough_for_every_kind_of_target() {
    let _machine = machine::in_company();
    let target = Everywhere::start();
    for words in target.words() {
        for user in [User::Root, User::Nobody] {
            let words = words.each_ref().map(String::as_str);
            let agent =
                through(Agent::looking_for(&words), &with(user, &NEEDED.map(|(name, _)| name))).start();
            agent.eventually_watches(target.app.pid());
            ask(&target.app, 3);
            assert_eq!(rights(agent.pid()), [SYS_PTRACE], "{words:?} as {user:?}");
            let stopped = agent.stop();
            assert_eq!(stopped.totals().count(), 3, "{words:?} as {user:?}");
        }
    }
}

/// Of everything that root has, one thing is taken away each time. CAP_SYS_ADMIN stands for the newer two, and nothing
/// for CAP_SYS_PTRACE.
#[test]
fn one_right_of_all_is_missed_when_it_is_gone() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let pid = app.pid().to_string();
    for user in [User::Root, User::Nobody] {
        let all = all();
        for missing in &all {
            let left: Vec<&str> = all.iter().map(String::as_str).filter(|name| name != missing).collect();
            if missing == "sys_ptrace" {
                let run = run(user, &left, &["--dry-run", "--pid", &pid]);
                let said = String::from_utf8_lossy(&run.stderr);
                assert_eq!(run.status.code(), Some(NO_PERMISSION), "{user:?}: {said}");
                assert_eq!(
                    said.matches("missing CAP_SYS_PTRACE: run as root").count(),
                    1,
                    "{user:?}: {said}"
                );
                assert_eq!(said.matches("missing ").count(), 1, "{user:?}: {said}");
            } else {
                // Waits for the line that says it watches, and for exit code 0.
                eprintln!("{user:?} without {missing}");
                through(Agent::watching(app.pid()), &with(user, &left)).start().stop();
            }
        }
    }
}

/// What comes after the agent has laid its rights down: another process, whoever listens on a port, and a program that
/// is yet to be started, by tracepoints that are attached for it then.
#[test]
fn targets_that_come_later_need_one_right() {
    let _machine = machine::in_company();
    for user in [User::Root, User::Nobody] {
        let [first, second] = [(); 2].map(|()| App::start(Server::FastApi));
        let (hub, dir) = (FakeHub::start(), Scratch::new("privileges"));
        let program = dir.join("hello");
        fs::copy(apps_dir().join("hello.py"), &program).expect("the app is in the tree");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
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

        let of_program = format!("{of_first}[[target]]\nexe = \"{}\"\n", program.display());
        fs::write(&file, &of_program).expect("it is ours");
        assert_eq!(agent.reload().field("targets"), Some(&2.into()));
        let port = free_port();
        let server = ProcessGroup::start(ending_with_us(&program).arg(port.to_string()), &dir.join("log"));
        agent.eventually_watches(server.pid());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        eventually("the server listens", PATIENCE, || TcpStream::connect(address).ok());
        (0..5).for_each(|_| drop(Client::of(&Address::Tcp(address)).send(&Request::get("/hello"))));
        counted(&hub, 8);

        let Address::Tcp(address) = second.address() else { panic!("it listens on a port") };
        let of_port = format!("{of_program}[[target]]\nport = {}\n", address.port());
        fs::write(&file, of_port).expect("it is ours");
        assert_eq!(agent.reload().field("targets"), Some(&3.into()));
        ask(&first, 2);
        ask(&second, 4);
        counted(&hub, 14);
        agent.stop();
    }
}

/// A request that takes longer than the agent waits before it looks whether anybody still holds the connection, at a
/// process of somebody else's.
#[test]
fn connections_of_other_users_are_seen_to_be_held() {
    let _machine = machine::in_company();
    let dir = Scratch::new("held");
    let port = free_port();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65533", "--regid=65533", "--clear-groups", "/usr/bin/python3", "-c", SLOW])
        .arg(port.to_string());
    let server = ProcessGroup::start(&mut command, &dir.join("log"));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    eventually("the server listens", PATIENCE, || TcpStream::connect(address).ok());
    let agent =
        through(Agent::watching(server.pid()), &with(User::Root, &NEEDED.map(|(name, _)| name))).start();
    let answer = Client::of(&Address::Tcp(address)).send(&Request::get("/slow")).exchange;
    assert_eq!(answer.status, 200);
    let stopped = agent.stop();
    let ledger = stopped.ledger();
    assert_eq!((ledger.get("reported"), ledger.seen()), (1, 1), "{ledger}");
}

#[test]
fn root_lays_its_rights_down() {
    let _machine = machine::in_company();
    let (app, hub) = (App::start(Server::FastApi), FakeHub::start());
    // One that only root may have.
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let port = (1..1024).rev().find(is_free).expect("some port below 1024 is free");
    let agent = Agent::watching(app.pid()).arg("--metrics-listen").arg(&format!("127.0.0.1:{port}"));
    let agent = agent.reporting_to(&hub).start();
    eventually("the rights are laid down", PATIENCE, || {
        (rights(agent.pid()) == [SYS_PTRACE | DAC_READ_SEARCH]).then_some(())
    });
    ask(&app, 3);
    counted(&hub, 3);
    agent.stop();
}

/// Names of all capabilities that may be had here.
fn all() -> Vec<String> {
    let own = rights(std::process::id())[0];
    let names = Command::new("setpriv").arg("--list-caps").output().expect("setpriv can be run (util-linux)");
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    let is_ours = |(number, _): &(usize, &str)| own & (1 << number) != 0;
    names.lines().enumerate().filter(is_ours).map(|(_, name)| name.to_owned()).collect()
}

fn run(user: User, capabilities: &[&str], args: &[&str]) -> Output {
    let words = with(user, capabilities);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(binary()).args(args).env("NODE_NAME", "node-a");
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
