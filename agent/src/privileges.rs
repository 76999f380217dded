//! The agent's rights: it keeps what it needs, and lays down what it needs no more (capabilities(7)).
//!
//! docs/privileges.md says which right serves what. They belong to a thread and to those it starts, so both functions
//! are to be called by the first one before it has started others that last.

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs,
};
use tracing::{debug, warn};

use crate::probe::host::KernelVersion;

/// From this version on the kernel asks for CAP_BPF where maps and programs are made, and lets whoever has a descriptor
/// of one use it (`__sys_bpf` in kernel/bpf/syscall.c).
const DESCRIPTORS_SUFFICE: KernelVersion = KernelVersion::new(5, 19);

/// Of use as long as the agent runs: it looks at descriptors and programs of other users' processes, and reads files
/// that are named to it.
const LASTING: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);
/// Of use until the programs are attached and what is named to us is open.
const AT_FIRST: CapabilitySet = CapabilitySet::BPF
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Takes up what was granted and is needed, also what only a file or a container runtime has marked as permitted, and
/// lays down everything else.
pub fn take_up() {
    // CAP_SYS_ADMIN: where distributions let nobody else use perf (`kernel.perf_event_paranoid` above 2).
    change(|permitted| permitted.intersection(LASTING.union(AT_FIRST).union(CapabilitySet::SYS_ADMIN)));
}

/// Lays down what attaching to further processes does not need. To be called when the programs are attached.
pub fn lay_down(kernel: KernelVersion) {
    change(|permitted| {
        let newer = CapabilitySet::BPF.union(CapabilitySet::PERFMON);
        // The older right stands for the two newer ones.
        let of_programs =
            if permitted.contains(newer) { newer } else { newer.union(CapabilitySet::SYS_ADMIN) };
        let lasting = if kernel < DESCRIPTORS_SUFFICE { LASTING.union(of_programs) } else { LASTING };
        permitted.intersection(lasting)
    });
    if let Err(error) = set_no_new_privs(true) {
        warn!(%error, "programs started by the agent could gain rights; it starts none");
    }
}

fn change(keep: impl FnOnce(CapabilitySet) -> CapabilitySet) {
    let changed = capabilities(None).and_then(|sets| {
        let kept = keep(sets.permitted);
        clear_ambient_capability_set()?;
        set_capabilities(
            None,
            CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
        )?;
        Ok(kept)
    });
    match changed {
        Ok(kept) => debug!(capabilities = ?kept, "rights laid down"),
        Err(error) => warn!(%error, "the agent keeps more rights than it needs"),
    }
}
