//! The agent's end of the socket: who may ask, and how often it costs anything.
//!
//! The task here accepts, asks the daemon for a report and writes it. The daemon hears of it through a channel of
//! one question; however many clients there are, it makes at most [`FRESH`]'s worth of reports.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process,
    sync::Arc,
    time::Duration,
};

use rustix::process::geteuid;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{report::AgentStatus, socket_path, sockets};

/// Clients that are written to at a time; further ones wait in the kernel's queue.
const MAX_CLIENTS: usize = 8;
/// A client that has not read its answer by then does not get the rest.
const PATIENCE: Duration = Duration::from_secs(2);
/// A report is handed out again for so long.
const FRESH: Duration = Duration::from_millis(100);
/// Another agent's socket that takes longer to answer is left alone.
const KNOCK: Duration = Duration::from_millis(100);
/// Pause when nothing can be accepted, as when there are no descriptors left.
const RECOVER: Duration = Duration::from_secs(1);

/// Someone wants to know.
pub type Question = oneshot::Sender<AgentStatus>;

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot create {}: {error}", dir.display())]
    Create { dir: PathBuf, error: io::Error },
    #[error("{} belongs to another user, or others may write to it", dir.display())]
    NotOurs { dir: PathBuf },
    #[error("cannot listen on {}: {error}", path.display())]
    Listen { path: PathBuf, error: io::Error },
}

/// Questions to be answered. Dropped, it takes the socket away.
#[derive(Debug)]
pub struct Questions {
    inbox: mpsc::Receiver<Question>,
    /// None when there is no socket.
    path: Option<PathBuf>,
}

impl Questions {
    /// Listens in `dir`, which is created for its owner alone where it is missing. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// When the directory is not ours alone to write to, or has no room for the socket.
    pub async fn listen(dir: &Path) -> Result<Self, OpenError> {
        claim(dir).map_err(|error| OpenError::Create { dir: dir.to_owned(), error })?;
        let metadata = fs::metadata(dir).map_err(|error| OpenError::Create { dir: dir.to_owned(), error })?;
        if metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(OpenError::NotOurs { dir: dir.to_owned() });
        }
        remove_stale(dir).await;
        let path = socket_path(dir, process::id());
        let listener = bind(&path).map_err(|error| OpenError::Listen { path: path.clone(), error })?;
        let (ask, inbox) = mpsc::channel(1);
        tokio::spawn(serve(listener, ask));
        Ok(Self { inbox, path: Some(path) })
    }

    /// Nobody can ask.
    pub fn none() -> Self {
        Self { inbox: mpsc::channel(1).1, path: None }
    }

    /// The next question; None when nobody can ask.
    pub async fn next(&mut self) -> Option<Question> {
        self.inbox.recv().await
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
    }
}

fn claim(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Takes away what agents left behind that were killed: nobody accepts there any more.
async fn remove_stale(dir: &Path) {
    for (_, path) in sockets(dir).unwrap_or_default() {
        let knocked = timeout(KNOCK, UnixStream::connect(&path)).await;
        if matches!(knocked, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused) {
            debug!(path = %path.display(), "removing the status socket of an agent that is gone");
            let _ = fs::remove_file(&path);
        }
    }
}

/// Listens under another name first: between bind and listen a socket looks like a stale one.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let unfinished = path.with_extension("new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&unfinished)?;
    fs::set_permissions(&unfinished, Permissions::from_mode(0o600))?;
    fs::rename(&unfinished, path)?;
    Ok(listener)
}

/// Accepts until the daemon listens no more.
async fn serve(listener: UnixListener, ask: mpsc::Sender<Question>) {
    let mut clients = JoinSet::new();
    let mut latest: Option<(Instant, Arc<[u8]>)> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => accepted,
            _ = clients.join_next(), if !clients.is_empty() => continue,
            () = ask.closed() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "cannot accept on the status socket");
                sleep(RECOVER).await;
                continue;
            }
        };
        if !may_ask(&stream) {
            continue;
        }
        let answer = match latest.take().filter(|(made, _)| made.elapsed() < FRESH) {
            Some(fresh) => fresh,
            None => {
                let (question, answer) = oneshot::channel();
                if ask.send(question).await.is_err() {
                    return;
                }
                let Ok(status) = answer.await else { return };
                let mut json =
                    serde_json::to_vec(&status).expect("numbers, strings and lists of them are JSON");
                json.push(b'\n');
                (Instant::now(), json.into())
            }
        };
        let bytes = Arc::clone(&answer.1);
        latest = Some(answer);
        clients.spawn(async move {
            // One that reads too slowly, or went away, has had its chance.
            let _ = timeout(PATIENCE, write(&stream, &bytes)).await;
        });
    }
}

/// Root and the agent's own user. The socket's mode says the same; this holds wherever it was put.
fn may_ask(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

async fn write(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
