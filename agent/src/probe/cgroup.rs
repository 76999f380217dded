//! Control groups: which systemd unit, container and pod a process belongs to.
//!
//! The kernel knows nothing of these; systemd, container runtimes and the kubelet give each a control group of its
//! own, and its path has the name. Version 1 has a path for each hierarchy, version 2 one, hybrid hosts have both. To a
//! reader in a cgroup namespace of its own, paths begin at that namespace's root (`/../docker-ID.scope`), so the names
//! count wherever they stand.

use std::{fmt, fs, io};

/// Digits of a container's id.
const ID_DIGITS: usize = 64;
/// As few of them name a container: what `docker ps` and `crictl ps` print is 12 or 13 digits long.
const FEWEST_DIGITS: usize = 12;
/// Longest name of a unit (UNIT_NAME_MAX in systemd's unit-name.h), in bytes.
const LONGEST_UNIT: usize = 255;
/// Kinds of units that can have processes, and those that have none (systemd.unit(5)).
const UNITS: [&str; 6] = ["service", "scope", "slice", "socket", "mount", "swap"];
const UNITS_WITHOUT_PROCESSES: [&str; 5] = ["target", "timer", "path", "device", "automount"];

/// The control groups of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// Of all hierarchies, each once.
    paths: Vec<Path>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Path {
    /// Whether systemd names units in this hierarchy.
    is_of_systemd: bool,
    path: String,
}

impl Cgroups {
    /// Of a process that is there.
    ///
    /// # Errors
    /// When it is gone, or /proc cannot be read.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self::parse(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cgroup"))?)))
    }

    /// Reads what `/proc/PID/cgroup` says (cgroups(7)): lines of `number:controllers:path`.
    pub fn parse(text: &str) -> Self {
        let mut paths: Vec<Path> = Vec::new();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            // The process outlives the group that it was in.
            let path = path.strip_suffix(" (deleted)").unwrap_or(path).to_owned();
            let path = Path { is_of_systemd: matches!(controllers, "" | "name=systemd"), path };
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        Self { paths }
    }

    /// Ids of the containers that it runs in, as the runtime writes them; a container within another one comes after
    /// it. Several paths may name the same.
    pub fn containers(&self) -> impl Iterator<Item = &str> {
        // Where the kubelet and the runtime disagree about the driver, `pod.slice:cri-containerd:ID` is one directory.
        self.paths.iter().flat_map(|path| path.path.split(['/', ':'])).filter_map(container_id)
    }

    /// Id of the container that it runs in: the innermost one.
    pub fn container(&self) -> Option<&str> {
        self.paths.iter().find_map(|path| path.path.rsplit(['/', ':']).find_map(container_id))
    }

    /// Uid of the Kubernetes pod that it runs in, in the notation of the API; the innermost one. None for a reader who
    /// has a cgroup namespace of its own within the same pod, to whom that part of the path is not shown.
    pub fn pod_uid(&self) -> Option<String> {
        self.paths.iter().find_map(|path| path.path.rsplit(['/', ':']).find_map(pod_uid))
    }

    /// Whether it belongs to a unit of the host's systemd, or of a user's, or to a unit within that.
    pub fn are_of_unit(&self, unit: &UnitName) -> bool {
        let of_systemd = self.paths.iter().filter(|path| path.is_of_systemd);
        of_systemd.flat_map(|path| units(&path.path)).any(|found| found == unit.0)
    }
}

/// The id in one directory's name: `ID`, or `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID`, `libpod-ID.scope`
/// and so on.
fn container_id(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let (runtime, id) = name.rsplit_once('-').unwrap_or(("", name));
    let is_id = id.len() == ID_DIGITS && id.bytes().all(is_hex_digit);
    // conmon is outside; it looks after the container.
    (is_id && !runtime.ends_with("conmon")).then_some(id)
}

/// The uid in one directory's name: `podUID`, or `kubepods-burstable-podUID.slice` with underscores for dashes; a
/// kubelet that has a group of its own puts that before it.
fn pod_uid(name: &str) -> Option<String> {
    let of_systemd = |name: &str| {
        let (class, uid) = name.strip_suffix(".slice")?.rsplit_once("-pod")?;
        class.split('-').any(|part| part == "kubepods").then(|| uid.replace('_', "-"))
    };
    let uid = of_systemd(name).or_else(|| name.strip_prefix("pod").map(str::to_owned))?;
    // A UUID, or for a pod out of a file on the node the digest of that.
    let digits = uid.bytes().filter(|byte| *byte != b'-');
    (digits.clone().count() == 32 && digits.clone().all(is_hex_digit)).then_some(uid)
}

/// The units of a path: slices, and the first other unit in them. Below it is what that unit makes of it, unless it is
/// a user's service manager.
fn units(path: &str) -> impl Iterator<Item = &str> {
    let mut is_below = false;
    path.split('/')
        // A name that the kernel would take for a file of its own has an underscore before it.
        .map(|name| name.strip_prefix('_').unwrap_or(name))
        .filter(|name| is_unit(name, &UNITS))
        .take_while(move |name| {
            let is_shown = !is_below;
            is_below |= !name.ends_with(".slice") && !name.starts_with("user@");
            is_shown
        })
}

fn is_unit(name: &str, kinds: &[&str]) -> bool {
    name.rsplit_once('.').is_some_and(|(name, kind)| !name.is_empty() && kinds.contains(&kind))
}

fn is_hex_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Name of a systemd unit that can have processes, in full: `nginx.service`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnitName(String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitNameError {
    #[error(
        "{saw:?} is no name of a unit; it is letters, digits and any of :-_.\\@, as `systemctl status` prints it, \
         such as nginx.service"
    )]
    NoName { saw: String },
    #[error("{saw} is a template; name what runs of it, such as {example}")]
    Template { saw: String, example: String },
    #[error("{saw} has no processes; name the service that it starts")]
    NoProcesses { saw: String },
}

impl UnitName {
    /// # Errors
    /// When no unit with processes can be called so.
    pub fn parse(text: &str) -> Result<Self, UnitNameError> {
        let saw = || text.to_owned();
        let is_usable = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
        if is_unit(text, &UNITS_WITHOUT_PROCESSES) {
            return Err(UnitNameError::NoProcesses { saw: saw() });
        }
        let name = if is_unit(text, &UNITS) { text.to_owned() } else { format!("{text}.service") };
        if text.is_empty() || name.len() > LONGEST_UNIT || !name.bytes().all(is_usable) {
            return Err(UnitNameError::NoName { saw: text.chars().take(LONGEST_UNIT).collect() });
        }
        if let Some((template, kind)) = name.split_once("@.") {
            return Err(UnitNameError::Template { saw: saw(), example: format!("{template}@1.{kind}") });
        }
        Ok(Self(name))
    }

    /// As people call it: without the kind, where that is the usual one.
    pub fn short_name(&self) -> &str {
        self.0.strip_suffix(".service").unwrap_or(&self.0)
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Id of a container, or as much of its beginning as tells it from others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContainerId(String);

impl ContainerId {
    /// None when it is none: 12 to 64 hexadecimal digits in lower case.
    pub fn parse(text: &str) -> Option<Self> {
        let is_id = (FEWEST_DIGITS..=ID_DIGITS).contains(&text.len()) && text.bytes().all(is_hex_digit);
        is_id.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it means the container with this id.
    pub fn means(&self, id: &str) -> bool {
        id.starts_with(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
    const UID: &str = "6a7b8c9d-0123-4567-89ab-cdef01234567";

    /// `ID`, `OTHER`, `UID` and `U_I_D`, which has underscores, stand for themselves.
    fn filled(text: &str) -> String {
        let underscores = UID.replace('-', "_");
        [("OTHER", OTHER), ("U_I_D", &underscores), ("UID", UID), ("ID", ID)]
            .iter()
            .fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    #[test]
    fn containers_and_pods_are_found_in_the_paths_of_all_runtimes() {
        let check = |text: &str, container: Option<&str>, pod: Option<&str>| {
            let cgroups = Cgroups::parse(&filled(text));
            assert_eq!((cgroups.container(), cgroups.pod_uid().as_deref()), (container, pod), "{text}");
        };
        // Docker: systemd driver, cgroupfs driver, a cgroup parent of the user's.
        check("0::/system.slice/docker-ID.scope\n", Some(ID), None);
        check(
            "12:pids:/docker/ID\n1:name=systemd:/docker/ID\n0::/system.slice/containerd.service\n",
            Some(ID),
            None,
        );
        check("0::/shop.slice/docker-ID.scope\n", Some(ID), None);
        check("4:memory:/shop/ID\n", Some(ID), None);
        // Podman: as root, without, with crun's group within; what looks after the container is not in it.
        check("0::/machine.slice/libpod-ID.scope/container\n", Some(ID), None);
        let rootless =
            "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container\n";
        check(rootless, Some(ID), None);
        check("9:pids:/libpod_parent/libpod-ID\n", Some(ID), None);
        check("0::/machine.slice/libpod-conmon-ID.scope\n", None, None);
        // Kubernetes with containerd: systemd driver, cgroupfs driver, and one that speaks of the other's.
        check(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/cri-containerd-ID.scope\n",
            Some(ID),
            Some(UID),
        );
        check("0::/kubepods.slice/kubepods-podU_I_D.slice/cri-containerd-ID.scope\n", Some(ID), Some(UID));
        check("11:cpu,cpuacct:/kubepods/burstable/podUID/ID\n", Some(ID), Some(UID));
        check(
            "0::/system.slice/containerd.service/kubepods-besteffort-podU_I_D.slice:cri-containerd:ID\n",
            Some(ID),
            Some(UID),
        );
        // Kubernetes with CRI-O.
        check(
            "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/crio-ID.scope\n",
            Some(ID),
            Some(UID),
        );
        check("0::/kubepods/besteffort/podUID/crio-ID\n", Some(ID), Some(UID));
        check("0::/kubepods.slice/kubepods-podU_I_D.slice/crio-conmon-ID.scope\n", None, Some(UID));
        // A pod out of a file on the node has a digest for a uid.
        let digest = "0123456789abcdef0123456789abcdef";
        check(&format!("0::/kubepods/burstable/pod{digest}/ID\n"), Some(ID), Some(digest));
        // A node in a container: the innermost is the one it runs in.
        check(
            "0::/docker/OTHER/kubelet.slice/kubelet-kubepods-podU_I_D.slice/cri-containerd-ID.scope\n",
            Some(ID),
            Some(UID),
        );
        check("0::/docker/OTHER/kubepods/podUID/ID\n", Some(ID), Some(UID));
        // As an agent sees them that has a cgroup namespace of its own.
        check(
            "0::/../../kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/cri-containerd-ID.scope\n",
            Some(ID),
            Some(UID),
        );
        check("0::/../cri-containerd-ID.scope\n", Some(ID), None);
        check("0::/../docker-ID.scope (deleted)\n", Some(ID), None);
        // None at all.
        check("0::/system.slice/nginx.service\n", None, None);
        check("0::/\n", None, None);
        check("0::/user.slice/podcasts/0123456789abcdef\n", None, None);
        check("", None, None);
        check("nonsense\n:\n::\n", None, None);
    }

    #[test]
    fn a_container_within_another_one_is_in_both() {
        let cgroups = Cgroups::parse(&filled("0::/docker/OTHER/kubepods/podUID/ID\n"));
        assert_eq!(cgroups.containers().collect::<Vec<_>>(), [OTHER, ID]);
    }

    #[test]
    fn the_unit_is_that_of_the_hosts_systemd_or_of_a_users() {
        let check = |text: &str, unit: &str, want: bool| {
            let unit = UnitName::parse(unit).unwrap();
            assert_eq!(Cgroups::parse(&filled(text)).are_of_unit(&unit), want, "{unit} {text}");
        };
        check("0::/system.slice/nginx.service\n", "nginx", true);
        check("0::/system.slice/nginx.service\n", "nginx.service", true);
        check("0::/system.slice/nginx.service\n", "nginx.scope", false);
        check("0::/system.slice/nginx.service\n", "ginx", false);
        check("0::/system.slice/nginx-debug.service\n", "nginx", false);
        // Version 1: its own hierarchy counts, no other.
        check("4:memory:/\n1:name=systemd:/system.slice/nginx.service\n", "nginx", true);
        check("4:memory:/system.slice/nginx.service\n1:name=systemd:/init.scope\n", "nginx", false);
        // Instances of a template, in a slice of their own; names with a meaning to the kernel.
        check("0::/system.slice/system-app.slice/app@1.service\n", "app@1", true);
        check("0::/system.slice/system-app.slice/app@2.service\n", "app@1", false);
        check("0::/system.slice/_memory.service\n", "memory", true);
        // What is delegated to a unit belongs to it, whatever it is called.
        check("0::/system.slice/shop.service/workers/3\n", "shop", true);
        check("0::/system.slice/shop.service/system.slice/nginx.service\n", "nginx", false);
        check("0::/system.slice/docker-ID.scope/system.slice/nginx.service\n", "nginx", false);
        // Whole slices, and units of users.
        check("0::/shop.slice/shop-web.slice/web.service\n", "shop.slice", true);
        let of_user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/blog.service/worker\n";
        check(of_user, "blog", true);
        check(of_user, "user@1000", true);
        check(of_user, "worker", false);
        // As an agent sees it that has a cgroup namespace of its own.
        check("0::/../../system.slice/nginx.service\n", "nginx", true);
        check("0::/\n", "nginx", false);
    }

    #[test]
    fn what_is_no_unit_is_said_to_be_none() {
        let check = |text: &str, want: &str| {
            let said = UnitName::parse(text).map_or_else(|error| error.to_string(), |unit| unit.to_string());
            assert!(said.contains(want), "{text}: {said}");
        };
        check("nginx", "nginx.service");
        check("my.app", "my.app.service");
        check("app@1.service", "app@1.service");
        check("run-u7.scope", "run-u7.scope");
        check("app@", "such as app@1.service");
        check("app@.service", "is a template");
        check("backup.timer", "has no processes");
        check("", "no name of a unit");
        check("a/b", "no name of a unit");
        check("nginx*", "no name of a unit");
        check(&"a".repeat(256), "no name of a unit");
    }

    #[test]
    fn as_much_of_an_id_as_people_copy_is_enough() {
        let means = |text: &str, id: &str| ContainerId::parse(text).is_some_and(|wanted| wanted.means(id));
        assert!(means(ID, ID) && means("0123456789ab", ID) && means("0123456789abc", ID));
        assert!(!means("0123456789ab", OTHER));
        for text in ["", "0123456789a", "0123456789AB", "web", &format!("{ID}0")] {
            assert_eq!(ContainerId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_process_that_is_there_has_control_groups() {
        assert_ne!(Cgroups::of(std::process::id()).unwrap(), Cgroups::default());
        assert!(Cgroups::of(u32::MAX).is_err());
    }
}
