//! The pods of our node, asked for once: is there an answer, and who asks to be watched?

use std::io::{self, Write};

use super::fact;
use crate::{
    config::{KubernetesConfig, OfPod},
    exit::Failure,
    kubernetes::{
        pod::{Pod, PodName},
        watch::{self, Listed},
    },
};

/// The pods as they are now.
pub struct Pods {
    listed: Listed,
    /// Their containers that would be watched.
    watched: Vec<OfPod>,
    /// Pods of which something is said that cannot be used.
    wrong: Vec<(PodName, String)>,
}

impl Pods {
    /// # Errors
    /// When nothing says where the API server is, or it does not answer, or not with pods.
    pub fn ask(config: &KubernetesConfig) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::Io { doing: "start the runtime", error })?;
        let listed = runtime.block_on(watch::list(&config.node));
        // A look-up of the server's name may take longer than we wait for it.
        runtime.shutdown_background();
        let mut found = Self { listed: listed?, watched: Vec::new(), wrong: Vec::new() };
        for pod in &found.listed.pods {
            match config.targets_of(pod) {
                Ok(targets) => found.watched.extend(targets.into_iter().filter_map(|target| target.pod)),
                Err(error) => found.wrong.push((pod.name.clone(), error.to_string())),
            }
        }
        Ok(found)
    }

    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { listed: Listed { server, pods, are_more }, watched, wrong } = self;
        fact(out, "API server", &format!("{server} answers"))?;
        fact(out, "pods", &count(pods, *are_more))?;
        for container in watched {
            fact(out, "to be watched", &container.to_string())?;
        }
        if watched.is_empty() {
            let advice = "no container that runs; annotate the pods of an app with apitally.io/client-id";
            fact(out, "to be watched", advice)?;
        }
        for (pod, error) in wrong {
            fact(out, "warning", &format!("pod {pod}: {error}"))?;
        }
        Ok(())
    }
}

fn count(pods: &[Pod], are_more: bool) -> String {
    match (pods.len(), are_more) {
        (0, _) => "none on this node; `kubectl get nodes` says what nodes are called".to_owned(),
        (count, false) => format!("{count} on this node"),
        (count, true) => format!("{count} on this node, and further ones, which are not watched"),
    }
}
