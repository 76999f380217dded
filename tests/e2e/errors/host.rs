//! Hosts on which the agent cannot run: too old, too strict, too few rights, an address that is taken.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use tests::agent::{Agent, binary};
use tests::app::{App, Server};
use tests::client::Request;
use tests::machine;
use tests::scratch::Scratch;

use super::attempt::{Attempt, NO_PERMISSION, UNAVAILABLE, assert_serves};
use super::seccomp::{Forbidden, forbid_bpf};

const EVERY_CAPABILITY: [&str; 3] = ["CAP_BPF", "CAP_PERFMON", "CAP_SYS_PTRACE"];
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
const OLD_KERNEL: [&str; 3] = ["setarch", "x86_64", "--uname-2.6"];
const PRIVATE_PIDS: [&str; 5] = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"];

#[test]
fn each_missing_capability_is_named() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let args = format!("--pid {} --dry-run", app.pid());
    let check = |wrapper: &[&str], missing: &[&str]| {
        let outcome = Attempt::through(wrapper, &args).run_beside(&app);
        outcome.assert_refused(NO_PERMISSION, &["run as root, or grant it"]);
        for capability in EVERY_CAPABILITY {
            let named = outcome.stderr.contains(&format!("missing {capability}"));
            assert_eq!(named, missing.contains(&capability), "{capability}: {outcome:#?}");
        }
    };
    // CAP_SYS_ADMIN would stand for the first two.
    check(&["setpriv", "--bounding-set=-sys_admin,-bpf"], &["CAP_BPF"]);
    check(&["setpriv", "--bounding-set=-sys_admin,-perfmon"], &["CAP_PERFMON"]);
    check(&["setpriv", "--bounding-set=-sys_ptrace"], &["CAP_SYS_PTRACE"]);
    check(&["setpriv", "--bounding-set=-sys_admin,-bpf,-perfmon"], &["CAP_BPF", "CAP_PERFMON"]);
    check(&["setpriv", "--bounding-set=-all"], &EVERY_CAPABILITY);

    let copy = BinaryForAll::new();
    let nobody = [&NOBODY[..], &[copy.wrapper()]].concat();
    check(&nobody, &EVERY_CAPABILITY);
}

#[test]
fn capabilities_that_messages_ask_for_are_enough() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let copy = BinaryForAll::new();
    let granted = ["--inh-caps=+bpf,+perfmon,+sys_ptrace", "--ambient-caps=+bpf,+perfmon,+sys_ptrace"];
    let nobody = [&NOBODY[..], &granted, &[copy.wrapper()]].concat();
    let agent = Agent::watching(app.pid()).through(&nobody).start();
    for _ in 0..5 {
        app.client().send_fresh(&Request::get("/items"));
    }
    let stopped = agent.stop();
    assert_eq!(stopped.totals().count(), 5);
    assert_serves(&app);
}

#[test]
fn host_that_lacks_something_is_told_what() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let check = |wrapper: &[&str], parts: &[&str]| {
        let args = format!("--pid {} --dry-run", app.pid());
        Attempt::through(wrapper, &args).run_beside(&app).assert_refused(UNAVAILABLE, parts);
        let outcome = Attempt::through(wrapper, "check").run();
        outcome.assert_printed(UNAVAILABLE, parts);
        outcome.assert_printed(UNAVAILABLE, &["the agent cannot run like this\n  - "]);
    };
    check(&OLD_KERNEL, &["this is Linux 2.6.", "needs 5.8 or newer"]);
    check(&PRIVATE_PIDS, &["pid namespace of its own", "--pid=host", "hostPID: true"]);
    check(&FakeSys::new(&[]).wrapper(), &["/sys/kernel/btf/vmlinux is missing", "CONFIG_DEBUG_INFO_BTF=y"]);
    let locked_down =
        FakeSys::new(&[("btf/vmlinux", ""), ("security/lockdown", "none integrity [confidentiality]\n")]);
    check(&locked_down.wrapper(), &["lockdown is in confidentiality mode", "lockdown=integrity"]);
    let garbage = FakeSys::new(&[("btf/vmlinux", "no type information")]);
    check(&garbage.wrapper(), &["/sys/kernel/btf/vmlinux"]);
}

/// As in a rootless container: it has all capabilities there, and none that counts.
#[test]
fn user_namespace_gives_no_rights() {
    const ROOTLESS: [&str; 3] = ["unshare", "--user", "--map-root-user"];
    const SAID: &str = "user namespace of its own, where it has no rights towards the kernel";
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let args = format!("--pid {} --dry-run", app.pid());
    let outcome = Attempt::through(&ROOTLESS, &args).run_beside(&app);
    outcome.assert_refused(NO_PERMISSION, &[SAID, "hostUsers: true"]);
    Attempt::through(&ROOTLESS, "check").run().assert_printed(UNAVAILABLE, &[SAID]);
}

#[test]
fn obstacles_are_named_all_at_once_the_most_fundamental_first() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let wrapper = [&["setpriv", "--bounding-set=-sys_ptrace"], &OLD_KERNEL[..]].concat();
    let args = format!("--pid {} --dry-run", app.pid());
    let outcome = Attempt::through(&wrapper, &args).run_beside(&app);
    outcome.assert_refused(UNAVAILABLE, &["needs 5.8 or newer", "; missing CAP_SYS_PTRACE"]);
    let outcome = Attempt::through(&wrapper, "check --port 1").run();
    outcome.assert_printed(
        UNAVAILABLE,
        &["  - this is Linux 2.6", "  - missing CAP_SYS_PTRACE", "  - no process listens on TCP port 1 "],
    );
}

#[test]
fn kernel_without_ebpf_is_recognised() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let check = |what: Forbidden, errno: i32| {
        let name = format!("seccomp: {what:?} of bpf() fails with errno {errno}");
        let attempt = |args: &str| Attempt::of(args).with(&name, |command| forbid_bpf(command, what, errno));
        let parts = ["eBPF is disabled here", "allow the bpf system call for the agent"];
        let outcome = attempt(&format!("--pid {} --dry-run", app.pid())).run_beside(&app);
        outcome.assert_refused(UNAVAILABLE, &parts);
        attempt("check").run().assert_printed(UNAVAILABLE, &parts);
    };
    const MAP_CREATE: u32 = 0;
    const PROG_LOAD: u32 = 5;
    const RAW_TRACEPOINT_OPEN: u32 = 17;
    for errno in [libc::EPERM, libc::EACCES, libc::ENOSYS] {
        check(Forbidden::Everything, errno);
    }
    for command in [MAP_CREATE, PROG_LOAD, RAW_TRACEPOINT_OPEN] {
        check(Forbidden::Command(command), libc::EPERM);
    }
}

#[test]
fn check_says_that_the_agent_can_run_here() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let tests::client::Address::Tcp(address) = app.address() else { panic!("nginx listens on TCP") };
    Attempt::of("check")
        .run()
        .assert_printed(0, &["host\n", "loaded and attached", "the agent can run here\n"]);
    for target in [format!("--pid {}", app.pid()), format!("--port {}", address.port())] {
        let outcome = Attempt::of(&format!("check {target}")).run_beside(&app);
        let processes = format!("{} and 2 children", app.pid());
        let port = format!("listens on     {}", address.port());
        outcome.assert_printed(0, &[&format!("target {target}\n"), &processes, &port, "can run here"]);
        eprintln!("{}", outcome.stdout);
    }
}

#[test]
fn check_says_that_there_is_no_such_target() {
    let check = |args: &str, parts: &[&str]| Attempt::of(args).run().assert_printed(UNAVAILABLE, parts);
    let _machine = machine::in_company();
    check("check --pid 4194304", &["cannot run like this", "  - there is no process 4194304; give the pid"]);
    check("check --port 1", &["cannot run like this", "  - no process listens on TCP port 1 "]);
    check(
        "check --exe /usr/bin/nobody",
        &["  - no process runs \"/usr/bin/nobody\"; a pattern with a slash"],
    );
    check(
        "check --unit nobody",
        &["  - unit nobody.service has no processes; `systemctl status nobody.service`"],
    );
    check("check --container 0123456789ab", &["  - container 0123456789ab has no processes that we can see"]);
    check("check --pid 2", &["  - process 2 (kthreadd) is a kernel thread"]);
}

#[test]
fn address_that_cannot_be_had_is_said_before_anything_is_watched() {
    let _machine = machine::in_company();
    let app = App::start(Server::Nginx);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a listener has an address");
    let check = |listen: &str, parts: &[&str]| {
        let attempt = Attempt::of(&format!("--pid {} --metrics-listen {listen}", app.pid()));
        attempt.run().assert_refused(UNAVAILABLE, parts);
    };
    let port = address.port().to_string();
    check(
        &port,
        &[&format!("cannot serve metrics on {address}"), "another program listens there", "--metrics-listen"],
    );
    check(&format!(":{port}"), &["another program listens there"]);
    check("192.0.2.1:9464", &["192.0.2.1:9464", "this host has no such address"]);
}

/// The agent where everybody may run it: the one that was built may lie in a directory of root's.
struct BinaryForAll {
    _dir: Scratch,
    script: String,
}

impl BinaryForAll {
    fn new() -> Self {
        let dir = Scratch::new("binary");
        let copy = dir.join("apitally-agent");
        fs::copy(binary(), &copy).expect("a fresh directory can be written to");
        // Takes the path of the other binary, as a wrapper does, and runs this one.
        let script = dir.join("instead-of");
        fs::write(&script, format!("#!/bin/sh\nshift\nexec {} \"$@\"\n", copy.display())).expect("likewise");
        for path in [&*dir, &copy, &script] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        }
        Self { script: script.to_string_lossy().into_owned(), _dir: dir }
    }

    fn wrapper(&self) -> &str {
        &self.script
    }
}

/// Stands in for /sys/kernel, for one process alone.
struct FakeSys {
    _dir: Scratch,
    mount: String,
}

impl FakeSys {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = Scratch::new("sys");
        for (name, content) in files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().expect("it is below the directory")).expect("it is ours");
            fs::write(path, content).expect("it is ours");
        }
        let mount = format!("mount --bind {} /sys/kernel && exec \"$@\"", dir.display());
        Self { _dir: dir, mount }
    }

    fn wrapper(&self) -> [&str; 6] {
        ["unshare", "--mount", "sh", "-c", &self.mount, "sh"]
    }
}
