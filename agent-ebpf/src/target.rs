//! Is this process ours? The first question of every program.

use agent_common::conn::TargetId;

use crate::raw;

/// The current process, when it belongs to a target.
#[derive(Clone, Copy)]
pub struct Current {
    pub pid: u32,
    pub target: TargetId,
}

#[inline(always)]
pub fn current() -> Option<Current> {
    let pid = raw::current_pid();
    Some(Current { pid, target: raw::target_of(pid)? })
}
