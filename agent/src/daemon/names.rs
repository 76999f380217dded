//! Files of consumers' names, read again when they change.

use std::time::Duration;

use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};
use tracing::{info, warn};

use crate::{consumer_files::NamesFile, pipeline::consumer::NameTable};

/// A file is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks at a file again and again, in a task of its own that ends with the receiver. A table that changed is received;
/// a file that cannot be used is warned about, and the last table stands. Reading a large one holds nobody up.
pub fn follow(mut file: NamesFile) -> mpsc::Receiver<NameTable> {
    let (tables, changed) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            sleep(LOOK_EVERY).await;
            if tables.is_closed() {
                return;
            }
            let look = spawn_blocking(move || {
                let read = file.reload_if_changed();
                (file, read)
            });
            // Not joined: the agent ends.
            let Ok((same, read)) = look.await else { return };
            file = same;
            match read {
                None => {}
                Some(Ok(table)) => {
                    info!(path = %file.path().display(), consumers = table.len(), "names of consumers read again");
                    if tables.send(table).await.is_err() {
                        return;
                    }
                }
                Some(Err(error)) => {
                    warn!(%error, "names of consumers cannot be read again, the last ones stand");
                }
            }
        }
    });
    changed
}
