//! Containers by id, or by the name that their engine has given them.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::Path,
};

use serde::Deserialize;

use super::cgroup::{Cgroups, ContainerId};

/// Where Docker keeps what it knows of its containers, each in a directory called by its id.
const DOCKER: &str = "/var/lib/docker/containers";
/// Where Podman does, run as root: all in one file.
const PODMAN: &str = "/var/lib/containers/storage/overlay-containers/containers.json";
/// Longest file of an engine that is read, bytes.
const LONGEST: u64 = 4 * 1024 * 1024;
/// Longest name, bytes; engines have no bound of their own.
const LONGEST_NAME: usize = 253;

/// A container, as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerName {
    Id(ContainerId),
    /// As Docker or Podman calls it. The next one of that name is meant, too.
    Name(String),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{saw:?} is no container; give its id, of which 12 digits are enough, or the name that Docker or Podman calls it by: \
     letters, digits and any of _.-"
)]
pub struct ContainerNameError {
    saw: String,
}

impl ContainerName {
    /// # Errors
    /// When no container can be called so.
    pub fn parse(text: &str) -> Result<Self, ContainerNameError> {
        if let Some(id) = ContainerId::parse(text) {
            return Ok(Self::Id(id));
        }
        let is_usable = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let begins_well = text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric());
        if begins_well && text.len() <= LONGEST_NAME && text.bytes().all(is_usable) {
            return Ok(Self::Name(text.to_owned()));
        }
        Err(ContainerNameError { saw: text.chars().take(LONGEST_NAME).collect() })
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Id(id) => id.as_str(),
            Self::Name(name) => name,
        }
    }

    /// Whether it means a container that a process with these control groups runs in. A container within another one is
    /// part of that.
    pub fn means(&self, cgroups: &Cgroups) -> bool {
        match self {
            Self::Id(wanted) => cgroups.containers().any(|id| wanted.means(id)),
            // Several paths may name the same container.
            Self::Name(name) => {
                let mut ids: Vec<&str> = cgroups.containers().collect();
                ids.dedup();
                ids.into_iter().any(|id| is_called(id, name, Path::new(DOCKER), Path::new(PODMAN)))
            }
        }
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether an engine calls the container with this id by this name.
fn is_called(id: &str, name: &str, docker: &Path, podman: &Path) -> bool {
    #[derive(Deserialize)]
    struct OfDocker {
        /// With a slash before it.
        #[serde(rename = "Name")]
        name: String,
    }
    #[derive(Deserialize)]
    struct OfPodman {
        id: String,
        #[serde(default)]
        names: Vec<String>,
    }
    if let Ok(container) = read::<OfDocker>(&docker.join(id).join("config.v2.json")) {
        return container.name.strip_prefix('/').unwrap_or(&container.name) == name;
    }
    let containers: Vec<OfPodman> = read(podman).unwrap_or_default();
    containers
        .iter()
        .any(|container| container.id == id && container.names.iter().any(|called| called == name))
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> io::Result<T> {
    let mut text = Vec::new();
    fs::File::open(path)?.take(LONGEST).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";

    #[test]
    fn what_is_no_id_is_a_name() {
        let parse = |text: &str| ContainerName::parse(text).map(|name| format!("{name:?}"));
        assert!(parse(ID).unwrap().starts_with("Id("));
        assert!(parse("0123456789ab").unwrap().starts_with("Id("));
        assert!(parse("shop-web-1").unwrap().starts_with("Name("));
        assert!(parse("decade").unwrap().starts_with("Name("));
        for text in ["", "-web", "a/b", "web 1", "caf\u{e9}", &"a".repeat(254)] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("is no container; give its id"), "{text}: {error}");
        }
    }

    #[test]
    fn engines_are_asked_for_names_by_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let (docker, podman) = (dir.path().join("docker"), dir.path().join("podman.json"));
        let is_called = |id: &str, name: &str| is_called(id, name, &docker, &podman);
        assert!(!is_called(ID, "web"));

        fs::create_dir_all(docker.join(ID)).unwrap();
        let config = docker.join(ID).join("config.v2.json");
        fs::write(&config, format!(r#"{{"ID": "{ID}", "Name": "/web", "State": {{"Running": true}}}}"#))
            .unwrap();
        assert!(is_called(ID, "web") && !is_called(ID, "we") && !is_called(OTHER, "web"));

        fs::write(&podman, format!(r#"[{{"id": "{OTHER}", "names": ["db", "old"]}}, {{"id": "{ID}"}}]"#))
            .unwrap();
        assert!(is_called(OTHER, "db") && is_called(OTHER, "old") && !is_called(OTHER, "web"));

        fs::write(&config, "{").unwrap();
        assert!(!is_called(ID, "web"));
    }

    #[test]
    fn a_container_within_the_one_that_is_meant_is_part_of_it() {
        let cgroups = Cgroups::parse(&format!("0::/docker/{OTHER}/kubepods/{ID}\n"));
        let means = |text: &str| ContainerName::parse(text).unwrap().means(&cgroups);
        assert!(means(ID) && means(OTHER) && !means(&"0".repeat(64)));
    }
}
