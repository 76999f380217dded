//! The status socket: who finds it, who waits for whom, and what is left behind.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use agent::status::{
    report::{AgentStatus, CaptureStatus, Resources, Tap},
    serve::{OpenError, Questions},
};
use tempfile::TempDir;

/// More than a socket's buffers take.
const LONG: usize = 4_000_000;

fn report(kernel: String) -> AgentStatus {
    AgentStatus {
        version: "1".to_owned(),
        pid: 7,
        uptime_s: 0.0,
        kernel,
        programs: Vec::new(),
        capture: CaptureStatus::default(),
        resources: Resources::default(),
        metrics: None,
        tap: Tap {
            records: 0,
            bytes_seen: 0,
            bytes_captured: 0,
            bytes_muted: 0,
            missed_runs: 0,
            dropped: [].into(),
        },
        hub: None,
        hubs: Vec::new(),
        targets: Vec::new(),
    }
}

fn socket_in(dir: &Path) -> PathBuf {
    dir.join(format!("{}.sock", process::id()))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Runs `clients` beside an agent that answers with `length` bytes; the number of reports it made.
fn beside_an_agent(dir: &Path, length: usize, clients: impl FnOnce(PathBuf) + Send + 'static) -> u32 {
    let made = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&made);
    let dir = dir.to_owned();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
        let mut questions = Questions::listen(&dir).await.unwrap();
        let mut clients = tokio::task::spawn_blocking(move || clients(socket_in(&dir)));
        loop {
            tokio::select! {
                Some(question) = questions.next() => {
                    counter.fetch_add(1, Ordering::Relaxed);
                    let _ = question.send(report("x".repeat(length)));
                }
                done = &mut clients => return done.unwrap(),
            }
        }
    });
    made.load(Ordering::Relaxed)
}

fn ask(socket: &Path) -> AgentStatus {
    let mut stream = UnixStream::connect(socket).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    serde_json::from_slice(&answer).unwrap()
}

#[test]
fn socket_is_for_its_owner_and_goes_away_with_the_agent() {
    let scratch = TempDir::new().unwrap();
    let dir = scratch.path().join("run/agents");
    let at = dir.clone();
    let made = beside_an_agent(&dir, 10, move |socket| {
        assert_eq!((mode(&at), mode(&socket)), (0o700, 0o600));
        assert_eq!(ask(&socket), report("x".repeat(10)));
    });
    assert_eq!(made, 1);
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
}

#[test]
fn clients_that_do_not_read_keep_others_waiting_for_a_while_only() {
    let scratch = TempDir::new().unwrap();
    beside_an_agent(scratch.path(), LONG, |socket| {
        let idle: Vec<_> = (0..20).map(|_| UnixStream::connect(&socket).unwrap()).collect();
        let asked = Instant::now();
        assert_eq!(ask(&socket).kernel.len(), LONG);
        // Eight at a time, two seconds each.
        assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
        drop(idle);
    });
}

#[test]
fn many_clients_cost_few_reports() {
    let scratch = TempDir::new().unwrap();
    let began = Instant::now();
    let made = beside_an_agent(scratch.path(), 10, |socket| {
        for _ in 0..500 {
            assert_eq!(ask(&socket).kernel.len(), 10);
        }
    });
    let most = 1 + began.elapsed().as_millis() / 100;
    assert!(u128::from(made) <= most, "{made} reports in {:?}", began.elapsed());
}

#[test]
fn sockets_of_agents_that_were_killed_are_removed_and_no_others() {
    let scratch = TempDir::new().unwrap();
    let dir = scratch.path().to_owned();
    let (stale, live) = (dir.join("11.sock"), dir.join("12.sock"));
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let listener = std::os::unix::net::UnixListener::bind(&live).unwrap();
    fs::write(dir.join("13.txt"), "").unwrap();
    let stranger = stale.clone();
    beside_an_agent(&dir, 10, move |_| assert!(!stranger.exists()));
    assert!(live.exists() && dir.join("13.txt").exists());
    drop(listener);
}

#[test]
fn directory_that_others_may_write_to_is_not_used() {
    let scratch = TempDir::new().unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let refused = runtime.block_on(Questions::listen(scratch.path()));
    assert!(matches!(refused, Err(OpenError::NotOurs { .. })), "{refused:?}");
    let impossible = runtime.block_on(Questions::listen(Path::new("/proc/agents")));
    let Err(OpenError::Create { error, .. }) = impossible else { panic!("{impossible:?}") };
    assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::PermissionDenied), "{error}");
}
