//! What the targets speak, heard for a moment: the programs and the pipeline that would watch them, and no report.

use std::{
    thread,
    time::{Duration, Instant},
};

use agent_common::{conn::ConnId, decode::decode};

use super::found::Found;
use crate::{
    exit::Failure,
    pipeline::{Limits, Pipeline, Policy, detail::Keep},
    probe::{load::Probe, source::Records},
    watch,
};

/// Between two looks at the ring buffer.
const LOOK: Duration = Duration::from_millis(20);

/// Attaches to the targets for as long as `time`, lets go of them again, and has each know what it was heard to speak.
///
/// # Errors
/// When a target is gone.
pub fn hear(
    (mut probe, mut records): (Probe, Records),
    mut targets: Vec<(&mut Found, &Policy)>,
    time: Duration,
) -> Result<(), Failure> {
    let mut pipeline = Pipeline::new(Limits::default());
    let roots_of = watch::roots_of(targets.iter().map(|(found, _)| &found.target));
    for (found, policy) in &mut targets {
        pipeline.add_target(found.target.id, Policy { keep: Keep::default(), ..policy.clone() });
        found.target.attach(&mut probe, &roots_of)?;
    }
    let until = Instant::now() + time;
    while Instant::now() < until {
        thread::sleep(LOOK);
        records.drain(usize::MAX, |bytes| {
            if let Ok(record) = decode(bytes) {
                pipeline.handle_event(record);
            }
        });
        for (conn, mute) in pipeline.take_mutes() {
            probe.mute(conn, mute);
        }
        for conn in pipeline.take_closed() {
            probe.unmute(conn);
        }
        let forgotten: Vec<ConnId> = pipeline.take_forgotten().collect();
        for conn in forgotten {
            probe.forget(conn);
        }
    }
    for (found, _) in targets {
        found.heard = Some(pipeline.ledger(found.target.id));
    }
    Ok(())
}
