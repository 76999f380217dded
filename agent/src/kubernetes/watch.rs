//! The pods of a node, as the API server tells of them: listed once, then watched.

use std::{
    collections::BTreeMap,
    future,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _};
use kube::{
    Api, Client,
    api::ListParams,
    core::{ApiResource, Status},
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, DefaultBackoff, Event},
    },
};
use tokio::{sync::watch, time::timeout};
use tracing::{debug, info, warn};

use super::pod::{ApiPod, Pod, PodName};
use crate::exit::chain;

/// Pods that are known of a node. The kubelet runs 110 of them unless told otherwise.
const MOST_PODS: usize = 1024;
/// Pods in one answer to a list.
const PAGE: u32 = 100;
/// A watch over which nothing came for so long is given up: the server ends each after 290 s, and says in between how
/// far it is (`BOOKMARK`).
const SILENCE: Duration = Duration::from_secs(300);
/// Whoever wants to know the pods at once waits for so long.
const ANSWER: Duration = Duration::from_secs(10);
/// The same trouble is worth a line in the log this often.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The pods of a node by their names; always as they are, so that whoever looks late misses nothing but what is over.
pub type Pods = Arc<BTreeMap<PodName, Pod>>;

/// There is nobody to ask.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "cannot tell where the API server is: {0}; run in a pod that has a service account, or name a file with \
         KUBECONFIG"
    )]
    NoServer(String),
    #[error("cannot make a client for the API server: {0}")]
    Client(String),
}

#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the API server at {server} tells nothing of pods: {error}")]
    Refused { server: String, error: String },
    #[error("the API server at {server} gave no answer within {} s; see whether the host can reach it", ANSWER.as_secs())]
    Silent { server: String },
}

/// What the API server says when it is asked once.
#[derive(Debug)]
pub struct Listed {
    pub server: String,
    pub pods: Vec<Pod>,
    /// It has further ones, beyond the bound.
    pub are_more: bool,
}

/// Asks once for the pods of a node, as [`follow`] does again and again.
///
/// # Errors
/// When the environment does not tell who to ask, or the server does not answer, or not with pods.
pub async fn list(node: &str) -> Result<Listed, ListError> {
    let (api, server) = connect().await?;
    let only_ours = ListParams::default().fields(&field(node)).limit(MOST_PODS as u32);
    match timeout(ANSWER, api.list(&only_ours)).await {
        Ok(Ok(list)) => {
            let are_more = list.metadata.continue_.is_some_and(|next| !next.is_empty());
            Ok(Listed { server, pods: list.items.into_iter().filter_map(Pod::of).collect(), are_more })
        }
        Ok(Err(kube::Error::Api(status))) => {
            let error = refusal(&status, "list").unwrap_or_else(|| status.to_string());
            Err(ListError::Refused { server, error })
        }
        Ok(Err(error)) => Err(ListError::Refused { server, error: chain(&error) }),
        Err(_) => Err(ListError::Silent { server }),
    }
}

/// Watches the pods of a node in a task of its own, which ends with the receiver. The first ones come when the server
/// has answered. When it does not, those that are known stay, and it is asked again later and later, up to every
/// half minute.
///
/// # Errors
/// When the environment does not tell who to ask. A server that cannot be reached is no error.
pub async fn follow(node: &str) -> Result<watch::Receiver<Pods>, StartError> {
    let (api, server) = connect().await?;
    let only_ours = watcher::Config::default().fields(&field(node)).page_size(PAGE);
    info!(node, server, "watching the pods of this node");
    let (sender, receiver) = watch::channel(Pods::default());
    tokio::spawn(async move {
        let mut events = pin!(patiently(watcher::watcher(api, only_ours), DefaultBackoff::default()));
        let (mut known, mut trouble) = (Known::default(), Trouble::default());
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = sender.closed() => return,
            };
            match event {
                Some(Ok(event)) => {
                    trouble.is_over();
                    if let Some(pods) = known.take_in(event) {
                        sender.send_replace(pods);
                    }
                }
                Some(Err(error)) => {
                    known.break_off();
                    trouble.happens(&error, Instant::now());
                }
                None => return,
            }
        }
    });
    Ok(receiver)
}

/// The API server that the environment tells of, and its address.
async fn connect() -> Result<(Api<ApiPod>, String), StartError> {
    let mut config = kube::Config::infer().await.map_err(|error| StartError::NoServer(chain(&error)))?;
    config.read_timeout = Some(SILENCE);
    let server = config.cluster_url.to_string();
    let client = Client::try_from(config).map_err(|error| StartError::Client(chain(&error)))?;
    let resource = ApiResource {
        group: String::new(),
        version: "v1".to_owned(),
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        plural: "pods".to_owned(),
    };
    Ok((Api::all_with(client, &resource), server))
}

/// The question for the pods of a node alone.
fn field(node: &str) -> String {
    format!("spec.nodeName={node}")
}

/// Waits longer and longer while there is no answer. That a list is begun is no answer yet, and would have each wait be
/// as short as the first.
fn patiently(
    events: impl Stream<Item = watcher::Result<Event<ApiPod>>>,
    backoff: impl Backoff,
) -> impl Stream<Item = watcher::Result<Event<ApiPod>>> {
    events.filter(|event| future::ready(!matches!(event, Ok(Event::Init)))).backoff(backoff)
}

/// What was told so far.
#[derive(Default)]
struct Known {
    pods: Pods,
    /// A new list that is being told.
    list: BTreeMap<PodName, Pod>,
    /// Whether a pod beyond the bound was warned about.
    is_full: bool,
}

impl Known {
    /// The pods as they are now, if that is another set than before.
    fn take_in(&mut self, event: Event<ApiPod>) -> Option<Pods> {
        let pods = match event {
            Event::Init => return None,
            Event::InitApply(object) => {
                insert(&mut self.list, object, &mut self.is_full);
                return None;
            }
            Event::InitDone => std::mem::take(&mut self.list),
            Event::Apply(object) => {
                let mut pods = BTreeMap::clone(&self.pods);
                insert(&mut pods, object, &mut self.is_full);
                pods
            }
            Event::Delete(object) => {
                let mut pods = BTreeMap::clone(&self.pods);
                pods.remove(&Pod::of(object)?.name);
                pods
            }
        };
        if pods == *self.pods {
            return None;
        }
        self.pods = pods.into();
        Some(Arc::clone(&self.pods))
    }

    /// Forgets a list that will not be completed; the next one begins anew.
    fn break_off(&mut self) {
        self.list.clear();
    }
}

fn insert(pods: &mut BTreeMap<PodName, Pod>, object: ApiPod, is_full: &mut bool) {
    let Some(pod) = Pod::of(object) else { return };
    if pods.len() < MOST_PODS || pods.contains_key(&pod.name) {
        pods.insert(pod.name.clone(), pod);
    } else if !std::mem::replace(is_full, true) {
        warn!(pod = %pod.name, bound = MOST_PODS, "too many pods on this node, this one and others are not watched");
    }
}

/// What keeps the server from telling us.
#[derive(Default)]
struct Trouble {
    /// What was said last, and when.
    said: Option<(String, Instant)>,
}

impl Trouble {
    fn happens(&mut self, error: &watcher::Error, now: Instant) {
        let Some(text) = describe(error) else {
            debug!(error = chain(error), "the list of pods is read anew");
            return;
        };
        let is_known = |(said, at): &(String, Instant)| *said == text && now - *at < WARN_EVERY;
        if !self.said.as_ref().is_some_and(is_known) {
            warn!(error = text, "the API server tells nothing of pods, going on with those that are known");
            self.said = Some((text, now));
        }
    }

    fn is_over(&mut self) {
        if self.said.take().is_some() {
            info!("the API server tells of pods again");
        }
    }
}

/// What to do about it; None when it is nothing to worry about.
fn describe(error: &watcher::Error) -> Option<String> {
    use kube::Error::Api;
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    let (status, doing) = match error {
        InitialListFailed(Api(status)) => (Some(status), "list"),
        WatchStartFailed(Api(status)) | WatchFailed(Api(status)) | WatchError(status) => {
            (Some(status), "watch")
        }
        _ => (None, ""),
    };
    match status {
        // It does not remember what we have seen.
        Some(status) if status.code == 410 => None,
        status => status.and_then(|status| refusal(status, doing)).or_else(|| Some(chain(error))),
    }
}

/// What to do about an answer with which the server refuses us.
fn refusal(status: &Status, doing: &str) -> Option<String> {
    match status.code {
        401 => Some("it does not know our service account's token (401)".to_owned()),
        403 => Some(format!(
            "we may not {doing} pods (403): the ClusterRole of our service account needs the verbs list and watch on \
             pods, in all namespaces"
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::stream;
    use serde_json::json;

    use super::*;

    fn object(name: &str, env: &str) -> ApiPod {
        let metadata = json!({"namespace": "shop", "name": name, "annotations": {"apitally.io/env": env}});
        serde_json::from_value(json!({"metadata": metadata, "spec": {"containers": []}})).unwrap()
    }

    /// Names and environments of the pods that were told of, if any were.
    fn told(pods: Option<Pods>) -> Option<String> {
        let text = |pod: &Pod| format!("{}={}", pod.name.name, pod.annotations["env"]);
        pods.map(|pods| pods.values().map(text).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_is_told_is_known() {
        let mut known = Known::default();
        let mut check = |event, want: Option<&str>| {
            assert_eq!(told(known.take_in(event)), want.map(str::to_owned));
        };
        // Nothing is known before the list is complete.
        check(Event::InitApply(object("a", "dev")), None);
        check(Event::InitApply(object("b", "dev")), None);
        check(Event::InitDone, Some("a=dev b=dev"));
        check(Event::Apply(object("c", "dev")), Some("a=dev b=dev c=dev"));
        check(Event::Apply(object("a", "prod")), Some("a=prod b=dev c=dev"));
        // Something changed that is nothing to us.
        check(Event::Apply(object("a", "prod")), None);
        check(Event::Delete(object("b", "dev")), Some("a=prod c=dev"));
        check(Event::Delete(object("b", "dev")), None);
        // A new list: what it does not name is gone.
        check(Event::InitApply(object("c", "dev")), None);
        check(Event::InitDone, Some("c=dev"));
        // One that breaks off, and its successor.
        check(Event::InitApply(object("d", "dev")), None);
        known.break_off();
        assert_eq!(told(known.take_in(Event::InitApply(object("c", "dev")))), None);
        assert_eq!(told(known.take_in(Event::InitDone)), None);
    }

    #[test]
    fn there_is_a_bound() {
        let mut known = Known::default();
        for index in 0..=MOST_PODS {
            known.take_in(Event::InitApply(object(&format!("pod-{index:04}"), "dev")));
        }
        let pods = known.take_in(Event::InitDone).unwrap();
        assert_eq!(pods.len(), MOST_PODS);
        // Those that are known may still change.
        assert!(known.take_in(Event::Apply(object("pod-0000", "prod"))).is_some());
        assert!(known.take_in(Event::Apply(object("other", "prod"))).is_none());
    }

    /// Never waits, and counts how often it is told that all is well.
    struct Counting(Arc<AtomicU32>);

    impl Iterator for Counting {
        type Item = Duration;

        fn next(&mut self) -> Option<Duration> {
            Some(Duration::ZERO)
        }
    }

    impl Backoff for Counting {
        fn reset(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_list_that_is_begun_is_no_answer() {
        let resets = Arc::new(AtomicU32::new(0));
        let failing = || [Ok(Event::Init), Err(watcher::Error::NoResourceVersion)];
        let events = (0..3).flat_map(|_| failing()).chain([Ok(Event::Init), Ok(Event::InitDone)]);
        let patient = patiently(stream::iter(events), Counting(Arc::clone(&resets)));
        let mut patient = pin!(patient);
        for _ in 0..3 {
            assert!(patient.next().await.is_some_and(|event| event.is_err()));
            assert_eq!(resets.load(Ordering::Relaxed), 0);
        }
        assert!(matches!(patient.next().await, Some(Ok(Event::InitDone))));
        assert_eq!(resets.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_refusal_says_what_is_missing() {
        let status = |code: u16| {
            let status =
                json!({"kind": "Status", "status": "Failure", "code": code, "message": "m", "reason": "r"});
            kube::Error::Api(serde_json::from_value(status).unwrap())
        };
        let check = |error: watcher::Error, want: Option<&str>| {
            let said = describe(&error);
            let fits =
                want.map_or(said.is_none(), |want| said.as_ref().is_some_and(|said| said.contains(want)));
            assert!(fits, "{said:?}");
        };
        check(watcher::Error::InitialListFailed(status(403)), Some("we may not list pods (403)"));
        check(watcher::Error::WatchStartFailed(status(403)), Some("we may not watch pods (403)"));
        check(watcher::Error::InitialListFailed(status(401)), Some("token (401)"));
        check(watcher::Error::WatchStartFailed(status(410)), None);
        check(watcher::Error::InitialListFailed(status(500)), Some("m"));
    }
}
