//! Who sends: one identity per target and machine, kept over restarts of the agent and of the target.
//!
//! Every identity that reports counts as an app instance on the dashboard, so a fresh one at each start would
//! pile them up. Works as in the official clients, but in the agent's own directory, and with the machine in the
//! key: a state directory that was copied to another one does not give both the same identity.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};
use tracing::warn;
use uuid::Uuid;

use super::config::{ClientId, Env};
use crate::{
    machine,
    slots::{self, SLOTS},
};

/// An identity that no other process uses for as long as this lives.
#[derive(Debug)]
pub struct Instance {
    pub uuid: Uuid,
    /// Locked. None when the identity could not be kept on disk.
    _slot: Option<File>,
}

impl Instance {
    /// Takes the first free identity of this target, making one if none is left over from an earlier run. With more
    /// than a hundred of one name on one machine, the others get identities that do not survive a restart.
    ///
    /// Always gives one: where `state_dir` cannot be used it is a random one, and a warning says so.
    pub fn claim(state_dir: &Path, client_id: &ClientId, env: &Env, name: &str) -> Self {
        Self::claim_on(machine::identity(), state_dir, client_id, env, name)
    }

    fn claim_on(machine: &str, state_dir: &Path, client_id: &ClientId, env: &Env, name: &str) -> Self {
        let digest = Sha256::digest(format!("{client_id}:{env}:{name}:{machine}"));
        let key: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        let claimed = slots::claim(state_dir, "instance", &key).and_then(|slot| {
            slot.map(|file| Ok(Self { uuid: read_or_write(&file)?, _slot: Some(file) })).transpose()
        });
        match claimed {
            Ok(Some(instance)) => return instance,
            Ok(None) => warn!(
                target_name = name,
                slots = SLOTS,
                "all instance identities are in use, taking a random one"
            ),
            Err(error) => warn!(
                dir = %state_dir.display(), %error,
                "state directory cannot be used, the instance identity will change at each start; see --state-dir"
            ),
        }
        Self { uuid: Uuid::new_v4(), _slot: None }
    }
}

/// The identity in a file that we have locked; a new one if there is none.
fn read_or_write(mut file: &File) -> io::Result<Uuid> {
    let mut text = Vec::new();
    file.take(64).read_to_end(&mut text)?;
    if let Ok(uuid) = Uuid::try_parse_ascii(text.trim_ascii())
        && !uuid.is_nil()
    {
        return Ok(uuid);
    }
    let uuid = Uuid::new_v4();
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(uuid.to_string().as_bytes())?;
    file.sync_data()?;
    Ok(uuid)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const ID: &str = "76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9";

    fn claim(dir: &Path, env: &str, name: &str) -> Instance {
        claim_on("a", dir, env, name)
    }

    fn claim_on(machine: &str, dir: &Path, env: &str, name: &str) -> Instance {
        Instance::claim_on(machine, dir, &ClientId::parse(ID).unwrap(), &Env::parse(env).unwrap(), name)
    }

    #[test]
    fn identity_survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let first = claim(dir.path(), "dev", "shop");
        let uuid = first.uuid;
        drop(first);
        assert_eq!(claim(dir.path(), "dev", "shop").uuid, uuid);
    }

    #[test]
    fn identities_in_use_at_once_differ() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (claim(dir.path(), "dev", "shop"), claim(dir.path(), "dev", "shop"));
        assert_ne!(first.uuid, second.uuid);
        let left_over = first.uuid;
        drop(first);
        assert_eq!(claim(dir.path(), "dev", "shop").uuid, left_over);
    }

    #[test]
    fn targets_and_environments_have_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let uuid = claim(dir.path(), "dev", "shop").uuid;
        assert_ne!(claim(dir.path(), "dev", "blog").uuid, uuid);
        assert_ne!(claim(dir.path(), "prod", "shop").uuid, uuid);
    }

    #[test]
    fn machines_have_their_own_though_their_state_be_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let uuid = claim(dir.path(), "dev", "shop").uuid;
        assert_ne!(claim_on("b", dir.path(), "dev", "shop").uuid, uuid);
        assert_eq!(claim(dir.path(), "dev", "shop").uuid, uuid);
    }

    #[test]
    fn file_is_named_by_the_target_and_holds_the_identity() {
        let dir = tempfile::tempdir().unwrap();
        let instance = claim(&dir.path().join("made/on/demand"), "dev", "shop");
        let key = format!("{:x}", Sha256::digest(format!("{ID}:dev:shop:a")));
        let path = dir.path().join(format!("made/on/demand/instance_{}_0.lock", &key[..8]));
        assert_eq!(fs::read_to_string(path).unwrap(), instance.uuid.to_string());
    }

    #[test]
    fn garbage_is_replaced() {
        for garbage in ["", "not a uuid", &"x".repeat(100_000), "00000000-0000-0000-0000-000000000000"] {
            let dir = tempfile::tempdir().unwrap();
            drop(claim(dir.path(), "dev", "shop"));
            let path = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
            fs::write(&path, garbage).unwrap();
            let uuid = claim(dir.path(), "dev", "shop").uuid;
            assert_eq!(fs::read_to_string(&path).unwrap(), uuid.to_string());
        }
    }

    #[test]
    fn without_a_directory_the_identity_is_random() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (first, second) = (claim(file.path(), "dev", "shop"), claim(file.path(), "dev", "shop"));
        assert_ne!(first.uuid, second.uuid);
    }
}
