//! What tells this machine from others.
//!
//! A state directory may be on another machine tomorrow: in a copied image, a restored backup, a volume that several
//! share. What is kept there in the name of a machine is therefore found by that machine alone.

use std::{fs, sync::LazyLock};

/// The same after a restart of the machine, another on a clone of it; not to be shown to anybody.
///
/// Made of the number that the firmware or the hypervisor gave the machine, which only root may read, and of that
/// of its installation, which clones may share. The host name counts only where there is neither: that of a container
/// is another one each time. Containers of one machine and one image are therefore one machine; where they share a
/// state directory, the locks there keep them apart.
pub fn identity() -> &'static str {
    &IDENTITY
}

static IDENTITY: LazyLock<String> = LazyLock::new(|| {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    identity_of(
        &read("/sys/class/dmi/id/product_uuid"),
        &read("/etc/machine-id"),
        &rustix::system::uname().nodename().to_string_lossy(),
    )
});

fn identity_of(firmware: &str, installation: &str, host_name: &str) -> String {
    let (firmware, installation) = (firmware.trim().to_ascii_lowercase(), installation.trim());
    match (firmware.as_str(), installation) {
        ("", "" | "uninitialized") => format!("host {}", host_name.trim()),
        _ => format!("machine {firmware} {installation}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_differ_and_restarts_do_not() {
        const A: &str = "4C4C4544-0035-4610-8053-B8C04F4E3132\n";
        const B: &str = "4C4C4544-0035-4610-8053-B8C04F4E3133\n";
        const ID: &str = "0123456789abcdef0123456789abcdef\n";
        let original = identity_of(A, ID, "web-1");
        assert_eq!(identity_of(&A.to_lowercase(), ID, "web-1-renamed"), original);
        assert_ne!(identity_of(B, ID, "web-1"), original, "a cloned virtual machine");
        assert_ne!(identity_of(A, "fedcba98", "web-1"), original, "a copied container image");
        assert_eq!(identity_of(A, "", "pod-x7k2p"), identity_of(A, "", "pod-9qd4s"));
        assert_ne!(identity_of("", "", "pod-1"), identity_of("", "uninitialized\n", "pod-2"));
        assert_eq!(identity_of("", "", "pod-1"), identity_of("", "", "pod-1\n"));
    }

    #[test]
    fn this_machine_has_one() {
        assert!(identity().len() > "host ".len());
    }
}
