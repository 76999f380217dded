//! What runs as it does in the daemon, for tests that block.

use std::{fs::File, sync::Arc, thread};

use tokio::{runtime, sync::oneshot};

/// A runtime of one thread, like the daemon's, and not the test's own. It ends when this is dropped.
pub struct Aside {
    runtime: runtime::Handle,
    _running: oneshot::Sender<()>,
}

impl Aside {
    /// What happens there is logged to `log`.
    pub fn start(log: File) -> Self {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let handle = runtime.handle().clone();
        let (running, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            let log = tracing_subscriber::fmt().with_ansi(false).with_writer(Arc::new(log)).finish();
            let _logging = tracing::subscriber::set_default(log);
            runtime.block_on(stopped)
        });
        Self { runtime: handle, _running: running }
    }

    /// Has something spawn its tasks there.
    pub fn spawning<T>(&self, start: impl FnOnce() -> T) -> T {
        let _inside = self.runtime.enter();
        start()
    }

    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}
