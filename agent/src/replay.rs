//! `apitally-agent replay FILE`: a recorded tap through the pipeline, without kernel or root.

use std::{
    collections::BTreeMap,
    io::Read,
    path::Path,
    time::{Duration, SystemTime},
};

use agent_common::{
    conn::TargetId,
    decode::{Record, decode},
};
use tracing::warn;
use uuid::Uuid;

use crate::{
    config::ReplayConfig,
    dry_run,
    exit::{Exit, Failure},
    hub::{App, PathItem, Startup, Sync},
    pipeline::{Ktime, Limits, Pipeline, Policy, detail::Keep},
    recording::{Frame, ReadError, Reader},
};

/// How far the recorded time moves on between two ticks of the pipeline.
const TICK: Duration = Duration::from_secs(1);

/// Prints what would have been sent, had it been sent in one message per target.
///
/// # Errors
/// When the file cannot be read, or is no recording. A damaged one is replayed up to the damage, and is then
/// an error too.
pub fn run(path: &Path, mut config: ReplayConfig) -> Result<Exit, Failure> {
    read_documents(&mut config)?;
    let unreadable = |error| Failure::Recording { path: path.to_owned(), error };
    let mut reader = Reader::open(path).map_err(unreadable)?;
    let mut pipeline = Pipeline::new(Limits::default());
    // When a request was made is not in a recording, so none is logged.
    let policy = |pid, ports: &[u16]| Policy { keep: Keep::default(), ..config.of(pid, ports).0.clone() };
    let Played { targets, damage } = play(&mut reader, &mut pipeline, policy).map_err(unreadable)?;
    for (id, Recorded { pid, ports }) in targets {
        pipeline.finish_target(id);
        let (_, app) = config.of(pid, &ports);
        let app = App {
            version: app.version.clone(),
            client: app.client.clone(),
            routes: pipeline.operations(id).into_iter().map(PathItem::from).collect(),
            ..App::default()
        };
        dry_run::print_startup(pid, &Startup::new(Uuid::nil(), app));
        let counts = pipeline.take_counts(id);
        dry_run::print_sync(pid, &Sync::new(SystemTime::now(), Uuid::nil(), counts, None));
        dry_run::print_ledger(pid, &pipeline.ledger(id));
    }
    damage.map_or(Ok(Exit::Ok), |error| Err(unreadable(error)))
}

/// Has the policies know the routes of the OpenAPI documents that the configuration names.
fn read_documents(config: &mut ReplayConfig) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Io { doing: "start the runtime", error })?;
    let others = std::iter::once((&config.others.routes, &mut config.others.policy));
    let targets = config.targets.iter_mut().map(|target| (&target.routes, &mut target.policy));
    for (routes, policy) in targets.chain(others) {
        if let Some(mut source) = routes.source()? {
            let document = runtime.block_on(source.load()).map_err(|error| routes.about_openapi(error))?;
            let declared = routes.declared(Some(&document));
            policy.routes = declared.map_err(|error| routes.about_openapi(error))?.into();
        }
    }
    Ok(())
}

/// What a recording held.
#[derive(Debug)]
pub struct Played {
    pub targets: BTreeMap<TargetId, Recorded>,
    /// Why it was not read to its end.
    pub damage: Option<ReadError>,
}

/// A target of a recording.
#[derive(Debug)]
pub struct Recorded {
    pub pid: u32,
    /// Empty when all ports count.
    pub ports: Vec<u16>,
}

/// Runs a recording through the pipeline, up to its end or the first damage. Every target is counted by what `policy`
/// says of its process and ports, on the ports that it was recorded with, and left unfinished.
///
/// # Errors
/// When it cannot be read for another reason than damage.
pub fn play<R: Read>(
    reader: &mut Reader<R>,
    pipeline: &mut Pipeline,
    policy: impl Fn(u32, &[u16]) -> Policy,
) -> Result<Played, ReadError> {
    let mut targets = BTreeMap::new();
    let mut clock = Clock::default();
    let damage = loop {
        match reader.next_frame() {
            Ok(Some(Frame::Target { id, pid, ports })) => {
                pipeline.add_target(id, Policy { ports: ports.clone(), ..policy(pid, &ports) });
                targets.insert(id, Recorded { pid, ports });
            }
            Ok(Some(Frame::Record(bytes))) => match decode(bytes) {
                Ok(record) => {
                    if let Some(now) = clock.tick(time_of(&record)) {
                        pipeline.handle_tick(now);
                    }
                    pipeline.handle_event(record);
                    // There is no kernel side to tell.
                    pipeline.take_mutes().for_each(drop);
                    pipeline.take_closed().for_each(drop);
                    pipeline.take_forgotten().for_each(drop);
                }
                Err(error) => warn!(%error, "a record of the recording cannot be read and is left out"),
            },
            Ok(None) => break None,
            Err(error @ ReadError::Damaged { .. }) => break Some(error),
            Err(error) => return Err(error),
        }
    };
    Ok(Played { targets, damage })
}

fn time_of(record: &Record<'_>) -> Ktime {
    Ktime(match record {
        Record::Data(data) => data.ktime_ns,
        Record::End(end) => end.ktime_ns,
        Record::Closed(closed) => closed.ktime_ns,
        Record::ProcessForked(process) | Record::ProcessExited(process) => process.ktime_ns,
        Record::Peer(peer) => peer.ktime_ns,
        Record::Notice(notice) => notice.ktime_ns,
    })
}

/// The recorded time, in steps of [`TICK`].
#[derive(Default)]
struct Clock {
    last: Ktime,
}

impl Clock {
    fn tick(&mut self, now: Ktime) -> Option<Ktime> {
        if now.since(self.last) < TICK {
            return None;
        }
        self.last = now;
        Some(now)
    }
}
