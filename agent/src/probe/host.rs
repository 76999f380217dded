//! Can we run on this host? Facts first, then what stands in the way, each with its remedy.

use std::{fmt, fs, io};

use rustix::thread::{CapabilitySet, capabilities};

use super::btf::KERNEL_BTF;

/// First kernel with the BPF ring buffer and with CAP_BPF.
pub const OLDEST_KERNEL: KernelVersion = KernelVersion::new(5, 8);
/// First kernel whose maps do not count against RLIMIT_MEMLOCK.
pub const NO_MEMLOCK: KernelVersion = KernelVersion::new(5, 11);

/// Inode numbers of the initial namespaces (PROC_PID_INIT_INO and PROC_USER_INIT_INO in include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;
const INITIAL_USER_NAMESPACE: u64 = 0xefff_fffd;

const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    pub major: u32,
    pub minor: u32,
}

impl KernelVersion {
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// Reads the beginning of a release such as `6.1.0-18-cloud-amd64`.
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What decides whether we can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// As `uname -r` prints it.
    pub release: String,
    pub kernel: Option<KernelVersion>,
    pub machine: String,
    pub has_btf: bool,
    pub lockdown: Lockdown,
    pub missing_capabilities: Vec<&'static str>,
    pub initial_pid_namespace: bool,
    pub initial_user_namespace: bool,
}

/// The kernel's lockdown mode (kernel_lockdown(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Off, or not built in.
    None,
    /// Harmless to us.
    Integrity,
    /// Forbids programs that read kernel memory.
    Confidentiality,
}

/// Something that keeps us from running here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    #[error("this machine is {found}; the agent reads system call arguments on x86_64 only")]
    Machine { found: String },
    #[error("this is Linux {found}; capturing needs {OLDEST_KERNEL} or newer (BPF ring buffer)")]
    KernelTooOld { found: String },
    #[error(
        "missing {capability}: run as root, or grant it (systemd: AmbientCapabilities={capability}, Kubernetes: securityContext.capabilities.add)"
    )]
    MissingCapability { capability: &'static str },
    #[error(
        "{KERNEL_BTF} is missing: this kernel has no type information; use a kernel built with CONFIG_DEBUG_INFO_BTF=y, or mount /sys into the container"
    )]
    NoBtf,
    #[error(
        "kernel lockdown is in confidentiality mode, which forbids eBPF programs to read kernel memory; boot with lockdown=integrity or without it"
    )]
    Confidentiality,
    #[error(
        "the agent runs in a pid namespace of its own, where a pid means another process than to the kernel; run it in the host's (docker run --pid=host, Kubernetes: hostPID: true)"
    )]
    PidNamespace,
    #[error(
        "the agent runs in a user namespace of its own, where it has no rights towards the kernel; run it as the host's root (no rootless container, docker run --userns=host, Kubernetes: hostUsers: true)"
    )]
    UserNamespace,
}

impl Obstacle {
    /// Whether it is permissions that are lacking, rather than abilities of the host.
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::MissingCapability { .. } | Self::UserNamespace)
    }
}

impl Host {
    /// Looks at the running system.
    pub fn inspect() -> Self {
        let uname = rustix::system::uname();
        let release = uname.release().to_string_lossy().into_owned();
        let kernel = KernelVersion::parse(&release);
        Self {
            kernel,
            machine: uname.machine().to_string_lossy().into_owned(),
            has_btf: fs::metadata(KERNEL_BTF).is_ok(),
            lockdown: lockdown(&fs::read_to_string(LOCKDOWN)),
            missing_capabilities: missing_capabilities(kernel),
            initial_pid_namespace: in_namespace("pid", INITIAL_PID_NAMESPACE),
            initial_user_namespace: in_namespace("user", INITIAL_USER_NAMESPACE),
            release,
        }
    }

    /// Everything that stands in the way, the most fundamental first.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        if self.machine != "x86_64" {
            obstacles.push(Obstacle::Machine { found: self.machine.clone() });
        }
        if self.kernel.is_none_or(|kernel| kernel < OLDEST_KERNEL) {
            obstacles.push(Obstacle::KernelTooOld { found: self.release.clone() });
        }
        if !self.initial_pid_namespace {
            obstacles.push(Obstacle::PidNamespace);
        }
        if !self.initial_user_namespace {
            obstacles.push(Obstacle::UserNamespace);
        }
        if self.lockdown == Lockdown::Confidentiality {
            obstacles.push(Obstacle::Confidentiality);
        }
        if !self.has_btf {
            obstacles.push(Obstacle::NoBtf);
        }
        let missing = self.missing_capabilities.iter();
        obstacles.extend(missing.map(|capability| Obstacle::MissingCapability { capability }));
        obstacles
    }
}

fn lockdown(content: &io::Result<String>) -> Lockdown {
    match content {
        Ok(modes) if modes.contains("[confidentiality]") => Lockdown::Confidentiality,
        Ok(modes) if modes.contains("[integrity]") => Lockdown::Integrity,
        _ => Lockdown::None,
    }
}

/// CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON; both came with Linux 5.8 (capabilities(7)).
fn missing_capabilities(kernel: Option<KernelVersion>) -> Vec<&'static str> {
    let Ok(sets) = capabilities(None) else { return Vec::new() };
    let has = |capability| sets.effective.contains(capability);
    let admin = has(CapabilitySet::SYS_ADMIN);
    let mut missing = Vec::new();
    if !admin && !has(CapabilitySet::BPF) {
        missing.push("CAP_BPF");
    }
    if !admin && !has(CapabilitySet::PERFMON) {
        missing.push("CAP_PERFMON");
    }
    if !has(CapabilitySet::SYS_PTRACE) {
        missing.push("CAP_SYS_PTRACE");
    }
    if kernel.is_some_and(|kernel| kernel < NO_MEMLOCK) && !has(CapabilitySet::SYS_RESOURCE) {
        missing.push("CAP_SYS_RESOURCE");
    }
    missing
}

/// The kernel side knows processes by their number in the initial pid namespace, and the kernel asks for rights in the
/// initial user namespace.
fn in_namespace(kind: &str, inode: u64) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(format!("/proc/self/ns/{kind}")).is_ok_and(|namespace| namespace.ino() == inode)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Host {
        Host {
            release: "6.1.0-18-cloud-amd64".to_owned(),
            kernel: Some(KernelVersion::new(6, 1)),
            machine: "x86_64".to_owned(),
            has_btf: true,
            lockdown: Lockdown::Integrity,
            missing_capabilities: Vec::new(),
            initial_pid_namespace: true,
            initial_user_namespace: true,
        }
    }

    #[test]
    fn each_obstacle_is_named() {
        let check = |host: Host, want: &[&str]| {
            let found: Vec<String> = host.obstacles().iter().map(ToString::to_string).collect();
            assert_eq!(found.len(), want.len(), "{found:?}");
            for (message, part) in found.iter().zip(want) {
                assert!(message.contains(part), "{message}");
            }
        };
        check(good(), &[]);
        check(Host { machine: "aarch64".to_owned(), ..good() }, &["this machine is aarch64"]);
        check(Host { kernel: Some(KernelVersion::new(5, 7)), ..good() }, &["needs 5.8 or newer"]);
        check(Host { kernel: None, ..good() }, &["needs 5.8 or newer"]);
        check(Host { has_btf: false, ..good() }, &["CONFIG_DEBUG_INFO_BTF"]);
        check(Host { lockdown: Lockdown::Confidentiality, ..good() }, &["confidentiality"]);
        check(Host { initial_pid_namespace: false, ..good() }, &["hostPID"]);
        check(Host { initial_user_namespace: false, ..good() }, &["user namespace of its own"]);
        check(
            Host { missing_capabilities: vec!["CAP_BPF", "CAP_PERFMON"], ..good() },
            &["CAP_BPF", "CAP_PERFMON"],
        );
    }

    #[test]
    fn kernel_releases_are_read() {
        for (release, want) in [
            ("6.1.0-18-cloud-amd64", Some((6, 1))),
            ("5.10.0", Some((5, 10))),
            ("4.18.0-553.el8.x86_64", Some((4, 18))),
            ("6.18.44-fc", Some((6, 18))),
            ("garbage", None),
            ("", None),
        ] {
            let want = want.map(|(major, minor)| KernelVersion::new(major, minor));
            assert_eq!(KernelVersion::parse(release), want, "{release}");
        }
    }

    #[test]
    fn the_lockdown_mode_is_the_bracketed_one() {
        let check = |content: &str, want| assert_eq!(lockdown(&Ok(content.to_owned())), want);
        check("none integrity [confidentiality]\n", Lockdown::Confidentiality);
        check("none [integrity] confidentiality\n", Lockdown::Integrity);
        check("[none] integrity confidentiality\n", Lockdown::None);
        assert_eq!(lockdown(&Err(io::Error::from(io::ErrorKind::NotFound))), Lockdown::None);
    }
}
