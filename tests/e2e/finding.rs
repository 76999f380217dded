//! `--exe`, `--unit`, `--container` and `--port`: whoever is meant is found when it comes, wherever it runs, and nobody
//! else.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::agent::{Agent, Stopped};
use tests::app::{App, Server, apps_dir, free_port};
use tests::cgroup::{Cgroup, Hierarchy};
use tests::client::{Address, Client, Exchange, Request};
use tests::eventually::eventually;
use tests::fake_hub::{FakeHub, Kind};
use tests::machine;
use tests::process::{ProcessGroup, children, cpu_time, ending_with_us, signal_to};
use tests::scratch::Scratch;
use tests::totals::{Totals, assert_same};

const PATIENCE: Duration = Duration::from_secs(20);

/// `hello.py` of the apps, as a program in a directory of its own, so that no other one on the host has its name.
#[derive(Debug)]
struct Program {
    dir: Scratch,
}

/// One process of it.
#[derive(Debug)]
struct Hello {
    group: ProcessGroup,
    address: Address,
}

impl Program {
    fn new() -> Self {
        let dir = Scratch::new("hello");
        let path = dir.join("hello");
        fs::copy(apps_dir().join("hello.py"), &path).expect("the app is in the tree");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
        Self { dir }
    }

    fn path(&self) -> String {
        self.dir.join("hello").display().to_string()
    }

    fn start(&self) -> Hello {
        self.start_with(|command| command)
    }

    fn start_in(&self, cgroup: &Cgroup) -> Hello {
        self.start_with(|command| cgroup.enter(command))
    }

    /// On a port, by a command that is made out of the plain one.
    fn start_with(&self, wrap: impl FnOnce(Command) -> Command) -> Hello {
        let port = free_port();
        self.start_at(Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port))), wrap)
    }

    /// In pid, mount, network and user namespaces of its own, on a Unix socket.
    fn start_contained(&self, cgroup: &Cgroup) -> Hello {
        let socket = self.dir.join("socket");
        let _ = fs::remove_file(&socket);
        self.start_at(Address::Unix(socket), |command| {
            let mut unshare = Command::new("unshare");
            unshare.args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]);
            unshare.args(["--net", "--ipc", "--uts"]).arg(command.get_program()).args(command.get_args());
            cgroup.enter(unshare)
        })
    }

    fn start_at(&self, address: Address, wrap: impl FnOnce(Command) -> Command) -> Hello {
        let mut command = ending_with_us(self.path());
        match &address {
            Address::Tcp(address) => command.arg(address.port().to_string()),
            Address::Unix(path) => command.arg(path),
        };
        let group = ProcessGroup::start(&mut wrap(command), &self.dir.join("log"));
        // Without a request, which the agent may not be there to see.
        eventually("the server listens", PATIENCE, || match &address {
            Address::Tcp(address) => TcpStream::connect(address).ok().map(drop),
            Address::Unix(path) => UnixStream::connect(path).ok().map(drop),
        });
        Hello { group, address }
    }
}

impl Hello {
    fn pid(&self) -> u32 {
        self.group.pid()
    }

    fn get(&self, times: u32) -> Vec<Exchange> {
        get(&self.address, "/hello", times)
    }
}

fn get(address: &Address, path: &str, times: u32) -> Vec<Exchange> {
    let mut client = Client::of(address);
    (0..times).map(|_| client.send(&Request::get(path)).exchange).collect()
}

/// All of these were reported, nothing else was seen, and by one instance.
fn assert_reported(exchanges: &[Exchange], hub: &FakeHub, stopped: &Stopped) {
    assert_same(&Totals::of(exchanges).untimed(|_| true), &hub.totals().untimed(|_| true));
    let (ledger, count) = (stopped.ledger(), exchanges.len() as u64);
    assert_eq!((ledger.get("reported"), ledger.seen()), (count, count), "{ledger}");
    let instances: BTreeSet<String> =
        hub.received_of(Kind::Sync).iter().map(|sync| sync.body["instance_uuid"].to_string()).collect();
    assert_eq!(instances.len(), 1, "{instances:?}");
}

/// A target that is started, killed, started anew, and gets another process beside that one, which then goes: as a
/// restart and as a rolling deploy have it.
fn comes_and_goes(words: &[&str], start: impl Fn() -> Hello) {
    let hub = FakeHub::start();
    let agent = Agent::looking_for(words).before_its_target().reporting_to(&hub).start();
    let mut exchanges = Vec::new();
    let mut found = |server: &Hello, since: Instant| {
        agent.eventually_watches(server.pid());
        println!("{words:?}: watched {:?} after its start, at most", since.elapsed());
        exchanges.extend(server.get(5));
    };
    let started = Instant::now();
    let first = start();
    found(&first, started);
    drop(first);
    agent.eventually_says("target is gone", 1);

    let started = Instant::now();
    let second = start();
    found(&second, started);
    let started = Instant::now();
    let third = start();
    found(&third, started);
    exchanges.extend(second.get(5));
    drop(second);
    exchanges.extend(third.get(5));
    eventually("only the last one is watched", PATIENCE, || {
        (agent.status()["targets"][0]["processes"] == serde_json::json!([third.pid()])).then_some(())
    });
    let gone = agent.log().iter().filter(|line| line.message() == Some("target is gone")).count();
    assert_eq!(gone, 1, "a target is there as long as any of its processes is");
    assert_reported(&exchanges, &hub, &agent.stop());
}

#[test]
fn program_is_found_whenever_it_is_started() {
    let _machine = machine::in_company();
    let (program, other) = (Program::new(), Program::new());
    let neighbour = other.start();
    comes_and_goes(&["--exe", &program.path()], || {
        neighbour.get(3);
        program.start()
    });
}

/// As service managers and container runtimes start things: a shell, which is not meant, becomes what is.
#[test]
fn program_that_another_one_becomes_is_found() {
    let _machine = machine::in_company();
    let program = Program::new();
    let pattern = format!("*{}/hel?o", program.dir.file_name().expect("it has a name").to_string_lossy());
    comes_and_goes(&["--exe", &pattern], || {
        program.start_with(|command| {
            let mut shell = Command::new("sh");
            shell.args(["-c", "exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
            shell
        })
    });
}

#[test]
fn unit_is_found_by_its_control_group() {
    let _machine = machine::in_company();
    let name = format!("apitally-agent-{}", std::process::id());
    let path = format!("system.slice/system-{name}.slice/{name}@1.service");
    let unit = Cgroup::new(Hierarchy::OfSystemd, &path);
    let other = Cgroup::new(Hierarchy::OfSystemd, &path.replace("@1", "@2"));
    let program = Program::new();
    let neighbour = program.start_in(&other);
    comes_and_goes(&["--unit", &format!("{name}@1")], || {
        neighbour.get(3);
        program.start_in(&unit)
    });
    drop(neighbour);
}

#[test]
fn container_is_found_by_its_control_group() {
    let _machine = machine::in_company();
    let id = |digit: char| format!("{digit}{:063x}", std::process::id());
    let program = Program::new();
    for (hierarchy, layout) in [
        (
            Hierarchy::OfSystemd,
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod6a7b8c9d_0123_4567_89ab_cdef01234567.slice\
             /cri-containerd-ID.scope",
        ),
        (Hierarchy::OfController, "kubepods/burstable/pod6a7b8c9d-0123-4567-89ab-cdef01234567/ID"),
        (Hierarchy::OfController, "docker/ID"),
    ] {
        let container = Cgroup::new(hierarchy, &layout.replace("ID", &id('a')));
        let other = Cgroup::new(hierarchy, &layout.replace("ID", &id('b')));
        let neighbour = program.start_in(&other);
        let wanted = id('a');
        // In full, and as much of it as engines print.
        for wanted in [&wanted[..], &wanted[..12]] {
            comes_and_goes(&["--container", wanted], || {
                neighbour.get(3);
                program.start_in(&container)
            });
        }
        drop(neighbour);
    }
}

#[test]
fn process_that_is_moved_into_a_unit_is_found() {
    let _machine = machine::in_company();
    let hub = FakeHub::start();
    let name = format!("apitally-agent-moved-{}", std::process::id());
    let unit = Cgroup::new(Hierarchy::OfSystemd, &format!("system.slice/{name}.service"));
    let delegated = Cgroup::new(Hierarchy::OfSystemd, &format!("system.slice/{name}.service/workers"));
    let program = Program::new();
    let [first, second] = [program.start(), program.start()];
    let agent = Agent::looking_for(&["--unit", &name]).before_its_target().reporting_to(&hub).start();
    first.get(2);
    unit.take(first.pid());
    agent.eventually_watches(first.pid());
    let mut exchanges = first.get(3);
    second.get(2);
    delegated.take(second.pid());
    agent.eventually_watches(second.pid());
    exchanges.extend(second.get(3));
    drop([first, second]);
    assert_reported(&exchanges, &hub, &agent.stop());
    drop(delegated);
}

/// Each with an app of its own at Apitally; and a process that both mean is the first one's, though the other one's
/// started it.
#[test]
fn targets_of_all_kinds_are_kept_apart() {
    const APPS: [&str; 2] = ["76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9", "8b5a1c6e-3d7f-4e0a-9c42-5f1d2e3a4b6c"];
    let _machine = machine::in_company();
    let hub = FakeHub::start();
    let (shop, blog) = (Program::new(), Program::new());
    let name = format!("apitally-agent-both-{}", std::process::id());
    let unit = Cgroup::new(Hierarchy::OfSystemd, &format!("system.slice/{name}.service"));
    let file = shop.dir.join("agent.toml");
    let config = format!(
        "hub_url = \"{}\"\nsync_interval = \"200ms\"\n\
         [[target]]\nexe = \"{}\"\nclient_id = \"{}\"\n\
         [[target]]\nunit = \"{name}\"\nclient_id = \"{}\"\n",
        hub.url(),
        shop.path(),
        APPS[0],
        APPS[1]
    );
    fs::write(&file, config).expect("a fresh directory can be written to");
    let agent = Agent::configured_by(&file).before_its_target().start();
    // The shell is the unit's, and so is the other program; the one that it becomes is the first target's.
    let of_unit = blog.start_in(&unit);
    let of_both = shop.start_in(&unit);
    for server in [&of_unit, &of_both] {
        agent.eventually_watches(server.pid());
        server.get(5);
    }
    let counted = |app: &str| {
        let received = hub.accepted();
        let of_app = received.iter().filter(|received| received.client_id == app);
        Totals::of_syncs(of_app.filter(|received| received.kind == Kind::Sync).map(|received| &received.body))
            .count()
    };
    let stopped = agent.stop();
    assert_eq!(APPS.map(counted), [5, 5]);
    assert!(stopped.ledgers().iter().all(|ledger| ledger.seen() == 5), "{:?}", stopped.ledgers());
    drop((of_unit, of_both));
}

/// nginx starts its new executable beside the old one, which then quits (nginx.org, "Upgrading Executable on the Fly").
#[test]
fn nginx_upgrades_itself() {
    let _machine = machine::in_company();
    let (hub, dir) = (FakeHub::start(), Scratch::new("nginx"));
    let nginx = dir.join("nginx");
    fs::copy("/usr/sbin/nginx", &nginx).expect("nginx is installed: cargo xtask servers");
    let port = free_port();
    let config = format!(
        "pid {0}/nginx.pid;\nerror_log {0}/error.log;\nuser root;\nworker_processes 2;\nevents {{}}\n\
         http {{ access_log off; server {{ listen 127.0.0.1:{port}; location / {{ return 200 'hello'; }} }} }}\n",
        dir.display()
    );
    fs::write(dir.join("nginx.conf"), config).expect("a fresh directory can be written to");
    let agent = Agent::looking_for(&["--exe", path(&nginx)]).before_its_target().reporting_to(&hub).start();
    let master = Master { pid_file: dir.join("nginx.pid") };
    let mut command = Command::new(&nginx);
    command.arg("-p").arg(&*dir).arg("-c").arg(dir.join("nginx.conf")).arg("-e").arg(dir.join("error.log"));
    // It goes into the background, away from the process that was started.
    assert!(command.status().expect("nginx can be started").success());
    let has_workers = |pid: &u32| children(*pid).len() >= 2;
    let old = eventually("nginx has workers", PATIENCE, || master.pid().filter(has_workers));
    eventually("they are watched", PATIENCE, || {
        let watched = processes(&agent);
        children(old).iter().chain([&old]).all(|pid| watched.contains(pid)).then_some(())
    });
    let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let mut exchanges = get(&address, "/items", 5);

    fs::copy("/usr/sbin/nginx", dir.join("newer"))
        .and_then(|_| fs::rename(dir.join("newer"), &nginx))
        .expect("room");
    signal_to(old, Signal::USR2);
    let new = eventually("nginx has a new master with workers", PATIENCE, || {
        master.pid().filter(|pid| *pid != old).filter(has_workers)
    });
    exchanges.extend(get(&address, "/items", 5));
    signal_to(old, Signal::QUIT);
    eventually("the old master quits", PATIENCE, || (!processes(&agent).contains(&old)).then_some(()));
    exchanges.extend(get(&address, "/items", 5));
    assert!(processes(&agent).contains(&new));
    assert_reported(&exchanges, &hub, &agent.stop());
    drop(master);
}

/// nginx in the background, which nobody waits for. Ended when dropped.
struct Master {
    pid_file: PathBuf,
}

impl Master {
    fn pid(&self) -> Option<u32> {
        fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok()
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.pid().into_iter().for_each(|pid| signal_to(pid, Signal::TERM));
    }
}

/// Those that the agent watches for its only target.
fn processes(agent: &Agent) -> Vec<u32> {
    let processes = agent.status()["targets"][0]["processes"].as_array().cloned().unwrap_or_default();
    processes.iter().filter_map(|pid| u32::try_from(pid.as_u64()?).ok()).collect()
}

/// A server in pid, mount, network and user namespaces of its own, by each of the ways to find it.
#[test]
fn container_with_namespaces_of_its_own_is_seen_into() {
    let _machine = machine::in_company();
    let id = format!("c{:063x}", std::process::id());
    let cgroup = Cgroup::new(Hierarchy::OfSystemd, &format!("system.slice/docker-{id}.scope"));
    let program = Program::new();
    for words in [["--container", &id], ["--exe", &program.path()]] {
        let hub = FakeHub::start();
        let agent = Agent::looking_for(&words).before_its_target().reporting_to(&hub).start();
        let mut exchanges = Vec::new();
        for restart in 0..2 {
            let server = program.start_contained(&cgroup);
            // It is known by the number that it has outside.
            let inside = eventually("the server runs", PATIENCE, || children(server.pid()).first().copied());
            let root = if words[0] == "--container" { server.pid() } else { inside };
            agent.eventually_watches(root);
            exchanges.extend(server.get(5));
            drop(server);
            agent.eventually_says("target is gone", restart + 1);
        }
        assert_reported(&exchanges, &hub, &agent.stop());
    }
}

/// The agent in a container, too: with the host's pids, else in namespaces and control groups of its own, with the
/// three capabilities that it needs and /sys as runtimes mount it. It reports to nobody, since it has no network.
#[test]
fn agent_in_a_container_sees_into_others() {
    const CONTAINED: &str = "mount -t sysfs -o ro none /sys && mount -t tmpfs none /run && mount -t tmpfs none /var && \
                             exec setpriv --no-new-privs --bounding-set=-all,+bpf,+perfmon,+sys_ptrace \
                             --inh-caps=-all,+bpf,+perfmon,+sys_ptrace -- \"$@\"";
    let _machine = machine::in_company();
    // Containers of other tests, which run beside this one, have other digits.
    let id = |digit: char| format!("{digit}{:063x}", std::process::id());
    let cgroup = |id: &str| Cgroup::new(Hierarchy::OfSystemd, &format!("system.slice/docker-{id}.scope"));
    let (own, others) = (cgroup(&id('e')), cgroup(&id('f')));
    let mut contained = Command::new("unshare");
    contained.args(["--mount", "--net", "--ipc", "--uts", "--cgroup", "--", "sh", "-c", CONTAINED, "sh"]);
    let contained = own.enter(contained);
    let through: Vec<&str> = std::iter::once(contained.get_program())
        .chain(contained.get_args())
        .map(|word| word.to_str().expect("paths of tests are UTF-8"))
        .collect();

    let program = Program::new();
    let server = program.start_contained(&others);
    let inside = eventually("the server runs", PATIENCE, || children(server.pid()).first().copied());
    let pid = inside.to_string();
    for words in [["--container", &id('f')], ["--exe", &program.path()], ["--pid", &pid]] {
        let agent = Agent::looking_for(&words).through(&through).start();
        agent.eventually_watches(if words[0] == "--container" { server.pid() } else { inside });
        let exchanges = server.get(5);
        let stopped = agent.stop();
        assert_same(&Totals::of(&exchanges).untimed(|_| true), &stopped.totals().untimed(|_| true));
        assert_eq!(stopped.ledger().seen(), 5, "{words:?}: {}", stopped.ledger());
    }
    drop(server);
}

/// The socket is there before the server: somebody else opened it, as systemd does for its services.
#[test]
fn server_that_was_given_its_socket_is_found_by_the_port() {
    const OPEN_AND_BECOME: &str = r#"
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.set_inheritable(listener.fileno(), True)
os.dup2(listener.fileno(), 3)
sys.stdin.readline()
os.execvp("python3", ["python3", "-c", '''
import http.server, socket, socketserver
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
server = Server(("", 0), Handler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
server.serve_forever()
'''])
"#;
    let _machine = machine::in_company();
    let (hub, dir) = (FakeHub::start(), Scratch::new("given"));
    let port = free_port();
    let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let start = || {
        let mut command = ending_with_us("sh");
        let become_server = format!("echo | python3 -c '{}' {port}", OPEN_AND_BECOME.replace('\'', "'\\''"));
        command.args(["-c", &become_server]);
        let server = ProcessGroup::start(&mut command, &dir.join("log"));
        eventually("the socket is open", PATIENCE, || {
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok().map(drop)
        });
        server
    };
    let mut server = start();
    let agent = Agent::watching_port(port).reporting_to(&hub).start();
    let mut exchanges = get(&address, "/given", 5);
    server.kill();
    agent.eventually_says("target is gone", 1);
    let _server = start();
    agent.eventually_says("watching", 2);
    exchanges.extend(get(&address, "/given", 5));
    assert_reported(&exchanges, &hub, &agent.stop());
}

/// What it costs the agent when a host starts many processes, and that a server among them is found all the same.
#[test]
fn server_is_found_while_the_host_starts_thousands_of_others() {
    const OTHERS: u64 = 2000;
    let _machine = machine::alone();
    let (program, hub) = (Program::new(), FakeHub::start());
    let agent = Agent::looking_for(&["--exe", &program.path()]).before_its_target();
    let agent = agent.with_the_usual_log().reporting_to(&hub).start();
    let (before, forks, started) = (cpu_time(agent.pid()), forks(), Instant::now());
    let mut busy = ending_with_us("sh");
    busy.args(["-c", "while :; do /bin/true; done"]);
    let busy = ProcessGroup::start(&mut busy, &program.dir.join("busy"));
    let server = program.start();
    agent.eventually_watches(server.pid());
    let exchanges = server.get(5);
    let others = eventually("the host starts others", 10 * PATIENCE, || {
        let others = self::forks() - forks;
        (others >= OTHERS).then_some(others)
    });
    let (elapsed, spent) = (started.elapsed(), cpu_time(agent.pid()) - before);
    println!("{others} processes in {elapsed:?} cost the agent {spent:?}");
    drop(busy);
    assert_reported(&exchanges, &hub, &agent.stop());
}

/// Processes and threads that were started since the host was.
fn forks() -> u64 {
    let stat = fs::read_to_string("/proc/stat").expect("/proc is mounted");
    let count = stat.lines().find_map(|line| line.strip_prefix("processes ")?.parse().ok());
    count.expect("the kernel counts them (proc_stat(5))")
}

/// Nobody else's files are read for a process that is named, and each process is looked at once for a port.
#[test]
fn startup_reads_what_it_is_asked_for() {
    const OTHERS: usize = 1000;
    let _machine = machine::alone();
    let app = App::start(Server::Nginx);
    let Address::Tcp(address) = app.address() else { panic!("nginx listens on TCP") };
    let mut sleepers = ending_with_us("sh");
    sleepers.args(["-c", &format!("i=0; while [ $i -lt {OTHERS} ]; do sleep 1000 & i=$((i+1)); done; wait")]);
    let dir = Scratch::new("startup");
    let sleepers = ProcessGroup::start(&mut sleepers, &dir.join("log"));
    eventually("they all sleep", 10 * PATIENCE, || (sleepers.children().len() == OTHERS).then_some(()));

    let own: BTreeSet<u32> = app.workers().into_iter().chain([app.pid()]).collect();
    let (pid, port) = (app.pid().to_string(), address.port().to_string());
    for words in [["--pid", &pid], ["--port", &port], ["--exe", "/usr/sbin/nginx"]] {
        let agent = Agent::looking_for(&words).with_the_usual_log().start();
        println!("{words:?}: watching after {:?}, {:?} of it work", agent.watching_after(), agent.cpu_time());
        agent.stop();

        let trace = dir.join("trace");
        let strace = ["strace", "-D", "-f", "-qq", "-e", "trace=openat,readlink,readlinkat", "-o"];
        let agent = Agent::looking_for(&words).through(&[&strace[..], &[path(&trace)]].concat()).start();
        agent.stop();
        let looked_at = others_in(&fs::read_to_string(&trace).expect("strace wrote it"), &own);
        let pids: BTreeSet<u32> = looked_at.iter().copied().collect();
        println!("{words:?}: {} looks at {} other processes", looked_at.len(), pids.len());
        match words[0] {
            "--pid" => assert_eq!(pids, BTreeSet::new()),
            "--exe" => assert!((OTHERS..=2 * pids.len()).contains(&looked_at.len()), "{}", looked_at.len()),
            _ => assert!(pids.len() >= OTHERS),
        }
    }
}

/// The processes, but for these and the agent, in files that were opened below `/proc`, as often as they were.
fn others_in(trace: &str, own: &BTreeSet<u32>) -> Vec<u32> {
    let numbers = trace.lines().filter_map(|line| {
        let path = line.split_once("\"/proc/")?.1;
        path.split(['/', '"']).next()?.parse::<u32>().ok()
    });
    let agent = trace.split_whitespace().next().and_then(|pid| pid.parse().ok());
    numbers.filter(|pid| !own.contains(pid) && Some(*pid) != agent).collect()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}
