//! Which containers of a pod are its app.

use super::pod::{Container, Pod};

/// Names of containers that hand on what another one of the same pod gets: watched too, they would have each request
/// counted twice.
const PROXIES: [&str; 9] = [
    "consul-dataplane",
    "daprd",
    "envoy", // also AWS App Mesh's and Open Service Mesh's
    "istio-proxy",
    "kube-rbac-proxy",
    "kuma-sidecar",
    "linkerd-proxy",
    "oauth2-proxy",
    "queue-proxy", // Knative's
];

/// A container is to be watched that the pod does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pod has no container {saw:?}; it has {has}")]
pub struct UnknownContainer {
    saw: String,
    has: String,
}

/// The containers of these names. Without any, those that are neither sidecars nor known to be proxies before others;
/// when none is left, the proxy is the app.
///
/// # Errors
/// A name that no container has.
pub fn of_app<'p>(pod: &'p Pod, names: &[String]) -> Result<Vec<&'p Container>, UnknownContainer> {
    if !names.is_empty() {
        let find = |name: &String| {
            let unknown = || UnknownContainer { saw: name.clone(), has: list(&pod.containers) };
            pod.containers.iter().find(|container| container.name == *name).ok_or_else(unknown)
        };
        return names.iter().map(find).collect();
    }
    let own: Vec<_> = pod.containers.iter().filter(|container| !container.is_sidecar).collect();
    let is_app = |container: &&Container| !PROXIES.contains(&container.name.as_str());
    let apps: Vec<_> = own.iter().copied().filter(is_app).collect();
    Ok(if apps.is_empty() { own } else { apps })
}

fn list(containers: &[Container]) -> String {
    containers.iter().map(|container| container.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kubernetes::pod::PodName;

    /// Of containers separated by spaces; a `+` before the name makes a sidecar.
    fn pod(containers: &str) -> Pod {
        let container = |name: &str| Container {
            name: name.trim_start_matches('+').to_owned(),
            id: None,
            is_sidecar: name.starts_with('+'),
        };
        Pod {
            name: PodName { namespace: "shop".to_owned(), name: "web-0".to_owned() },
            workload: "web".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            containers: containers.split_whitespace().map(container).collect(),
        }
    }

    #[test]
    fn proxies_are_left_out_unless_they_are_meant() {
        let check = |containers: &str, named: &str, want: &str| {
            let (pod, names) =
                (pod(containers), named.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
            let found = of_app(&pod, &names).map(|found| {
                found.iter().map(|container| container.name.as_str()).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(found.unwrap_or_else(|error| error.to_string()), want, "{containers:?} {named:?}");
        };
        check("api", "", "api");
        check("api istio-proxy", "", "api");
        check("api +istio-proxy", "", "api");
        check("api admin linkerd-proxy", "", "api admin");
        check("envoy", "", "envoy");
        check("envoy +metrics", "", "envoy");
        check("api istio-proxy", "istio-proxy", "istio-proxy");
        check("api +proxy", "proxy", "proxy");
        check("api admin", "admin api", "admin api");
        check("api admin", "web", "the pod has no container \"web\"; it has api, admin");
    }
}
