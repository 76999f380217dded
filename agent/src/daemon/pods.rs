//! The pods of our node: their containers come, go and change as targets.

use std::{future, sync::Arc};

use tokio::sync::watch::Receiver;
use tracing::{info, warn};

use super::{BATCH, Daemon};
use crate::{
    config::{KubernetesConfig, TargetConfig},
    exit::Failure,
    kubernetes::{
        pod::PodName,
        watch::{self, Pods},
    },
};

/// Where news of pods comes from.
pub struct News(Option<Receiver<Pods>>);

impl News {
    pub async fn follow(config: &KubernetesConfig) -> Result<Self, Failure> {
        Ok(Self(Some(watch::follow(&config.node).await?)))
    }

    pub fn none() -> Self {
        Self(None)
    }

    /// The pods as they are, once they are others than before.
    pub async fn next(&mut self) -> Pods {
        if let Some(pods) = &mut self.0
            && pods.changed().await.is_ok()
        {
            return Arc::clone(&pods.borrow_and_update());
        }
        future::pending().await
    }
}

impl Daemon {
    /// Watches what is to be watched of the pods as they are now.
    pub fn follow_pods(&mut self, pods: Pods) {
        // What happened before is counted as it was to be then.
        while self.handle_records().count == BATCH {}
        self.replace_pods(pods);
        self.look_at_everybody();
    }

    /// Has the containers of these pods be watched in the place of those before. A pod of which something is said that
    /// cannot be used is watched, or not, as before. To be followed by a look at everybody.
    pub fn replace_pods(&mut self, pods: Pods) {
        let Some(config) = self.kubernetes.clone() else { return };
        let before = std::mem::replace(&mut self.pods, Arc::clone(&pods));
        for name in before.keys().filter(|name| !pods.contains_key(name)) {
            self.replace(|target| is_of(target, name), Vec::new());
        }
        for (name, pod) in pods.iter().filter(|(name, pod)| before.get(name) != Some(pod)) {
            match config.targets_of(pod) {
                Ok(targets) => {
                    for target in &targets {
                        let container = target.pod.as_ref().map(|of| of.container.as_str());
                        info!(pod = %name, container, target = %target.spec, "a pod is to be watched");
                    }
                    self.replace(|target| is_of(target, name), targets);
                }
                Err(error) => warn!(pod = %name, %error, "the pod cannot be watched as it says"),
            }
        }
    }
}

fn is_of(target: &TargetConfig, name: &PodName) -> bool {
    target.pod.as_ref().is_some_and(|of| of.pod == *name)
}
