//! Control groups of our own making, laid out as systemd and container runtimes do.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::eventually::eventually;

/// The kernel lets go of a group when the processes in it have been waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which of the kernel's hierarchies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// The one in which systemd names its units: version 2, or its own one.
    OfSystemd,
    /// That of a controller of version 1, where there is one, else the same.
    OfController,
}

/// A control group. Removed with those above it that are empty then, when dropped; its processes are gone by then.
#[derive(Debug)]
pub struct Cgroup {
    root: PathBuf,
    path: PathBuf,
}

impl Cgroup {
    /// Makes a group with this path, such as `system.slice/nginx.service`.
    ///
    /// # Panics
    /// When control groups are not mounted where we may make any, saying what to do.
    pub fn new(hierarchy: Hierarchy, path: &str) -> Self {
        let root = root(hierarchy);
        let path = root.join(path);
        // Another test may take away one above it, which was empty, before it is there.
        eventually("the control group is made", PATIENCE, || match fs::create_dir_all(&path) {
            Ok(()) => Some(()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("{}: {error}; run as root", path.display()),
        });
        Self { root, path }
    }

    /// Moves a process there.
    pub fn take(&self, pid: u32) {
        let file = self.path.join("cgroup.procs");
        fs::write(&file, pid.to_string()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }

    /// Has a command go there before it runs, as service managers do.
    pub fn enter(&self, command: Command) -> Command {
        const ENTER: &str = "echo $$ > \"$0\"/cgroup.procs && exec \"$@\"";
        let mut entering = Command::new("sh");
        entering.args(["-c", ENTER]).arg(&self.path).arg(command.get_program()).args(command.get_args());
        entering
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        eventually("the control group is empty", PATIENCE, || match fs::remove_dir(&self.path) {
            Ok(()) => Some(()),
            Err(error) => (error.kind() == ErrorKind::NotFound).then_some(()),
        });
        let above = self.path.ancestors().skip(1).take_while(|path| *path != self.root);
        // Others may be in there.
        above.for_each(|path| drop(fs::remove_dir(path)));
    }
}

/// Where a hierarchy is mounted.
fn root(hierarchy: Hierarchy) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts can be read");
    let mounted = |is_wanted: fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, path, kind, options, ..] = fields[..] else { return None };
            is_wanted(kind, options).then(|| Path::new(path).to_owned())
        })
    };
    let of_systemd = || {
        mounted(|kind, _| kind == "cgroup2")
            .or_else(|| mounted(|kind, options| kind == "cgroup" && options.contains("name=systemd")))
    };
    let of_controller =
        || mounted(|kind, options| kind == "cgroup" && options.split(',').any(|option| option == "pids"));
    let found = match hierarchy {
        Hierarchy::OfSystemd => of_systemd(),
        Hierarchy::OfController => of_controller().or_else(of_systemd),
    };
    found.expect("no control groups are mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
}
