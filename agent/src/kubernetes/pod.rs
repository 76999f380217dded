//! As much of a pod as the agent goes by.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::{NotUsed, Object};
use serde::Deserialize;

/// What comes before the names of our annotations.
pub const PREFIX: &str = "apitally.io/";
/// Bytes of an annotation's value that are kept: one more than may be used, so that what is too long is seen to be.
const KEPT_OF_VALUE: usize = LONGEST_VALUE + 1;
/// Longest value of an annotation, bytes.
pub const LONGEST_VALUE: usize = 4096;
/// Annotations of ours that are kept of a pod, in the order of their names; there are fewer that mean something.
const MOST_ANNOTATIONS: usize = 64;
/// Labels that are kept of a pod, in the order of their names. Pods have a dozen.
const MOST_LABELS: usize = 256;
/// Containers that are kept of a pod, sidecars included.
const MOST_CONTAINERS: usize = 64;
/// Digits in which the controller of CronJobs writes the time, in minutes, behind a job's name.
const DIGITS_OF_TIME: usize = 8;

/// A pod as the API server has it, without what we do not read.
pub type ApiPod = Object<PodSpec, PodStatus>;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    #[serde(default)]
    containers: Vec<ContainerSpec>,
    #[serde(default)]
    init_containers: Vec<ContainerSpec>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerSpec {
    name: String,
    restart_policy: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    #[serde(default)]
    container_statuses: Vec<ContainerStatus>,
    #[serde(default)]
    init_container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    name: String,
    /// `containerd://0123..`, and nothing before there is one.
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    state: Option<ContainerState>,
}

#[derive(Clone, Debug, Deserialize)]
struct ContainerState {
    running: Option<NotUsed>,
}

/// Namespace and name: no two pods have both in common at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What we go by. Bounded whatever the object holds; equal when nothing that matters to us is different.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: PodName,
    /// What the pod was made by, such as the Deployment's name: the same for its successor.
    pub workload: String,
    pub labels: BTreeMap<String, String>,
    /// Those with our prefix, without it.
    pub annotations: BTreeMap<String, String>,
    pub containers: Vec<Container>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub name: String,
    /// As the runtime calls it, while it runs.
    pub id: Option<String>,
    /// An init container that runs on beside the others.
    pub is_sidecar: bool,
}

impl Pod {
    /// None for what has no name: it is no pod.
    pub fn of(object: ApiPod) -> Option<Self> {
        let ApiPod { metadata, spec, status, .. } = object;
        let status = status.unwrap_or_default();
        let name = PodName { namespace: metadata.namespace.clone()?, name: metadata.name.clone()? };
        let sidecars = spec.init_containers.into_iter().filter(ContainerSpec::is_sidecar);
        let sidecars = sidecars.map(|spec| Container::of(spec, &status.init_container_statuses, true));
        let containers =
            spec.containers.into_iter().map(|spec| Container::of(spec, &status.container_statuses, false));
        Some(Self {
            name,
            workload: workload(&metadata),
            containers: containers.chain(sidecars).take(MOST_CONTAINERS).collect(),
            labels: metadata.labels.into_iter().flatten().take(MOST_LABELS).collect(),
            annotations: metadata
                .annotations
                .into_iter()
                .flatten()
                .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?.to_owned(), value)))
                .take(MOST_ANNOTATIONS)
                .map(|(key, mut value)| {
                    value.truncate(value.floor_char_boundary(KEPT_OF_VALUE));
                    (key, value)
                })
                .collect(),
        })
    }
}

impl Container {
    fn of(spec: ContainerSpec, statuses: &[ContainerStatus], is_sidecar: bool) -> Self {
        let status = statuses.iter().find(|status| status.name == spec.name);
        let is_running =
            |status: &&ContainerStatus| status.state.as_ref().is_some_and(|state| state.running.is_some());
        let id = status.filter(is_running).and_then(|status| status.container_id.as_deref());
        let id = id.and_then(|id| id.split_once("://")).map(|(_runtime, id)| id.to_owned());
        Self { name: spec.name, id, is_sidecar }
    }
}

impl ContainerSpec {
    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

/// Names of pods differ from one rollout to the next; this one does not.
fn workload(metadata: &ObjectMeta) -> String {
    let pod = metadata.name.clone().unwrap_or_default();
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let is_controller = |owner: &&OwnerReference| owner.controller == Some(true);
    let Some(owner) = owners.iter().find(is_controller) else { return pod };
    match owner.kind.as_str() {
        "ReplicaSet" => {
            let labels = metadata.labels.as_ref();
            let hash = labels.and_then(|labels| labels.get("pod-template-hash"));
            let of_deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
            of_deployment.unwrap_or(&owner.name).to_owned()
        }
        "Job" => {
            let is_time =
                |end: &str| end.len() >= DIGITS_OF_TIME && end.bytes().all(|byte| byte.is_ascii_digit());
            let of_cron_job = owner.name.rsplit_once('-').filter(|(_, end)| is_time(end));
            of_cron_job.map_or(owner.name.as_str(), |(name, _)| name).to_owned()
        }
        // A pod out of a file on the node: its name has the node's in it.
        "Node" => pod,
        _ => owner.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn pod(object: Value) -> Pod {
        Pod::of(serde_json::from_value(object).unwrap()).unwrap()
    }

    fn owned_by(kind: &str, name: &str) -> String {
        let owner = json!({"apiVersion": "x", "kind": kind, "name": name, "uid": "u", "controller": true});
        let metadata = json!({
            "namespace": "shop", "name": "web-5d4f6c7b8-x2x9k", "ownerReferences": [owner],
            "labels": {"pod-template-hash": "5d4f6c7b8"},
        });
        pod(json!({"metadata": metadata, "spec": {}})).workload
    }

    #[test]
    fn what_matters_of_a_pod_is_kept() {
        let found = pod(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "shop", "name": "web-0", "labels": {"app": "web"},
                "annotations": {"apitally.io/env": "prod", "example.com/env": "dev"},
            },
            "spec": {
                "nodeName": "a",
                "containers": [{"name": "api", "image": "x"}, {"name": "cache"}],
                "initContainers": [{"name": "migrate"}, {"name": "proxy", "restartPolicy": "Always"}],
            },
            "status": {
                "phase": "Running",
                "containerStatuses": [
                    {"name": "cache", "containerID": format!("containerd://{ID}"), "state": {"terminated": {}}},
                    {"name": "api", "containerID": format!("cri-o://{ID}"), "state": {"running": {"startedAt": "t"}}},
                ],
                "initContainerStatuses": [{"name": "proxy", "state": {"waiting": {}}}],
            },
        }));
        assert_eq!(found.name.to_string(), "shop/web-0");
        assert_eq!(found.labels["app"], "web");
        assert_eq!(
            found.annotations.into_iter().collect::<Vec<_>>(),
            [("env".to_owned(), "prod".to_owned())]
        );
        let containers: Vec<_> = found
            .containers
            .iter()
            .map(|container| (container.name.as_str(), container.id.as_deref(), container.is_sidecar))
            .collect();
        assert_eq!(containers, [("api", Some(ID), false), ("cache", None, false), ("proxy", None, true)]);
    }

    #[test]
    fn the_workload_is_the_same_after_a_rollout() {
        assert_eq!(owned_by("ReplicaSet", "web-5d4f6c7b8"), "web");
        assert_eq!(owned_by("ReplicaSet", "web"), "web", "one that no Deployment made");
        assert_eq!(owned_by("StatefulSet", "db"), "db");
        assert_eq!(owned_by("Job", "report-28914720"), "report");
        assert_eq!(owned_by("Job", "migrate-2"), "migrate-2");
        assert_eq!(owned_by("Node", "node-a"), "web-5d4f6c7b8-x2x9k");
        let alone = pod(json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": {}}));
        assert_eq!(alone.workload, "web");
    }

    #[test]
    fn whatever_a_pod_holds_little_of_it_is_kept() {
        let many = |count: usize, prefix: &str| -> Value {
            (0..count)
                .map(|index| (format!("{prefix}{index}"), json!("é".repeat(100_000))))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let containers: Vec<Value> = (0..1000).map(|index| json!({"name": index.to_string()})).collect();
        let found = pod(json!({
            "metadata": {"namespace": "a", "name": "b", "annotations": many(80, PREFIX), "labels": many(300, "l")},
            "spec": {"containers": containers},
        }));
        assert_eq!(found.annotations.len(), MOST_ANNOTATIONS);
        assert!(found.annotations.values().all(|value| value.len() <= KEPT_OF_VALUE));
        assert_eq!((found.labels.len(), found.containers.len()), (MOST_LABELS, MOST_CONTAINERS));
        assert!(Pod::of(serde_json::from_value(json!({"metadata": {}, "spec": {}})).unwrap()).is_none());
    }
}
