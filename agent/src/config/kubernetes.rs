//! The pods of our node: which of them are to be watched, and how.

use std::env;

use agent_common::conn::LocalPorts;
use kube::core::{Selector, SelectorExt as _};

use super::{
    ConfigError, OfPod, TargetConfig, TargetSpec, ValueError,
    annotations::{PodKeys, by},
    file::ABOVE,
    keys::{Origins, TargetKeys, origin},
    table::{FileError, Given, Origin, Table},
    target::{self, Destination},
};
use crate::{
    kubernetes::{
        containers,
        pod::{Container, Pod},
        selector,
    },
    probe::{cgroup::ContainerId, container::ContainerName},
};

/// The name of the node that the agent runs on, from the downward API.
const NODE_NAME: &str = "NODE_NAME";
/// Longest name of a node (RFC 1123's longest host name), bytes.
const LONGEST_NODE_NAME: usize = 253;

/// What was given about Kubernetes: the table `[kubernetes]`.
#[derive(Clone, Debug, Default)]
pub struct KubernetesKeys {
    node: Option<Given<String>>,
    annotations: Option<Given<bool>>,
    env_label: Option<Given<String>>,
    app_version_label: Option<Given<String>>,
    pods: Vec<PodsKeys>,
}

/// Pods that are watched though they do not ask for it: a table `[[kubernetes.pods]]`.
#[derive(Clone, Debug)]
struct PodsKeys {
    selector: Option<Given<String>>,
    namespace: Option<Given<String>>,
    containers: Option<Given<Vec<String>>>,
    ports: Option<Given<Vec<u16>>>,
    keys: TargetKeys,
}

/// Which pods of which node are to be watched, and how.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    /// The node that we run on.
    pub node: String,
    /// Whether pods have a say.
    annotations: bool,
    env_label: Option<String>,
    app_version_label: Option<String>,
    /// The first that means a pod counts.
    rules: Vec<PodRule>,
    flags: TargetKeys,
    defaults: TargetKeys,
    destination: Destination,
    pub origins: Origins,
}

#[derive(Clone, Debug)]
struct PodRule {
    selector: Selector,
    namespace: Option<String>,
    containers: Vec<String>,
    ports: Vec<u16>,
    keys: TargetKeys,
}

impl KubernetesKeys {
    pub fn take(mut table: Table<'_>, agent_keys: &[&'static str]) -> Result<Self, FileError> {
        let pods = table.take_tables("pods")?.map(|tables| tables.value).unwrap_or_default();
        let keys = Self {
            node: table.take("node")?,
            annotations: table.take("annotations")?,
            env_label: table.take("env_label")?,
            app_version_label: table.take("app_version_label")?,
            pods: pods
                .into_iter()
                .map(|table| PodsKeys::take(table, agent_keys))
                .collect::<Result<_, _>>()?,
        };
        table.finish(&[(agent_keys, ABOVE)])?;
        Ok(keys)
    }

    /// `flags` and `defaults` are those of all targets.
    ///
    /// # Errors
    /// The first value that cannot be used; when nothing says which node this is.
    pub fn understand(
        &self,
        flags: TargetKeys,
        defaults: TargetKeys,
        destination: Destination,
    ) -> Result<KubernetesConfig, ConfigError> {
        let label = |given: Option<&Given<String>>, key: &'static str| match given {
            Some(given) if !selector::is_key(&given.value) => {
                let error = ValueError::Label { name: given.name(key), saw: given.value.clone() };
                Err(ConfigError::about(given, error))
            }
            given => Ok(given.map(|given| given.value.clone())),
        };
        // What no pod can make good is not to wait for one.
        let of_rules = self.pods.iter().map(|pods| pods.keys.clone());
        for keys in of_rules.chain([TargetKeys::default()]) {
            let keys = flags.clone().or(&keys).or(&defaults);
            target::understand(by(TargetSpec::Pid(0)), &keys, &Destination::Stdout)?;
        }
        let origins = [
            origin("node", self.node.as_ref()),
            origin("annotations", self.annotations.as_ref()),
            origin("env_label", self.env_label.as_ref()),
            origin("app_version_label", self.app_version_label.as_ref()),
        ];
        Ok(KubernetesConfig {
            node: self.node()?,
            annotations: self.annotations.as_ref().is_none_or(|given| given.value),
            env_label: label(self.env_label.as_ref(), "env_label")?,
            app_version_label: label(self.app_version_label.as_ref(), "app_version_label")?,
            rules: self.pods.iter().map(PodsKeys::understand).collect::<Result<_, _>>()?,
            flags,
            defaults,
            destination,
            origins: origins.into_iter().flatten().collect(),
        })
    }

    /// It becomes part of a question to the API server.
    fn node(&self) -> Result<String, ConfigError> {
        let of_environment = || {
            let value = env::var(NODE_NAME).ok().filter(|name| !name.is_empty())?;
            Some(Given { value, by: Origin::Environment(NODE_NAME.to_owned()) })
        };
        let given =
            self.node.clone().or_else(of_environment).ok_or(ConfigError::Value(ValueError::NoNode))?;
        let is_usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        let name = given.value.as_str();
        if name.is_empty() || name.len() > LONGEST_NODE_NAME || !name.bytes().all(is_usable) {
            let error = ValueError::NodeName { name: given.name("node"), saw: given.value.clone() };
            return Err(ConfigError::about(&given, error));
        }
        Ok(given.value)
    }
}

impl PodsKeys {
    fn take(mut table: Table<'_>, agent_keys: &[&'static str]) -> Result<Self, FileError> {
        let keys = Self {
            selector: table.take("selector")?,
            namespace: table.take("namespace")?,
            containers: table.take("containers")?,
            ports: table.take("ports")?,
            keys: TargetKeys::take(&mut table)?,
        };
        let missing = table.error("it means no pods; give it a `selector`, a `namespace`, or both");
        table.finish(&[(agent_keys, ABOVE)])?;
        if keys.selector.is_none() && keys.namespace.is_none() { Err(missing) } else { Ok(keys) }
    }

    fn understand(&self) -> Result<PodRule, ConfigError> {
        let parse = |given: &Given<String>| {
            selector::parse(&given.value)
                .map_err(|error| ConfigError::about(given, ValueError::Selector(error)))
        };
        let ports = match &self.ports {
            Some(given) if given.value.len() > LocalPorts::MOST => {
                let error = ValueError::TooManyPorts { name: given.name("ports"), saw: given.value.len() };
                return Err(ConfigError::about(given, error));
            }
            Some(given) => given.value.clone(),
            None => Vec::new(),
        };
        Ok(PodRule {
            selector: self.selector.as_ref().map(parse).transpose()?.unwrap_or_default(),
            namespace: self.namespace.as_ref().map(|given| given.value.clone()),
            containers: self.containers.as_ref().map(|given| given.value.clone()).unwrap_or_default(),
            ports,
            keys: self.keys.clone(),
        })
    }
}

impl PodRule {
    fn means(&self, pod: &Pod) -> bool {
        let is_there = self.namespace.as_ref().is_none_or(|namespace| *namespace == pod.name.namespace);
        is_there && self.selector.matches(&pod.labels)
    }
}

impl KubernetesConfig {
    /// What is to be watched of a pod: its containers that run. None of them unless the pod asks for it, or a rule
    /// means it. What the pod says counts before everything else: its annotations, then its labels.
    ///
    /// # Errors
    /// The first thing that is said of the pod and cannot be used.
    pub fn targets_of(&self, pod: &Pod) -> Result<Vec<TargetConfig>, ConfigError> {
        let own = if self.annotations { PodKeys::read(&pod.annotations)? } else { PodKeys::default() };
        let rule = self.rules.iter().find(|rule| rule.means(pod));
        if !own.asks() && (rule.is_none() || own.watch == Some(false)) {
            return Ok(Vec::new());
        }
        let named = |own: Vec<String>, rule: Option<&Vec<String>>| match rule {
            Some(rule) if own.is_empty() => rule.clone(),
            _ => own,
        };
        let names = named(own.containers, rule.map(|rule| &rule.containers));
        let ports = if own.ports.is_empty() { rule.map(|rule| rule.ports.clone()) } else { Some(own.ports) };
        let labels = TargetKeys {
            env: self.label(pod, self.env_label.as_ref()),
            app_version: self.label(pod, self.app_version_label.as_ref()),
            ..TargetKeys::default()
        };
        let rule_keys = rule.map(|rule| rule.keys.clone()).unwrap_or_default();
        let keys = own.keys.or(&labels).or(&self.flags).or(&rule_keys).or(&self.defaults);
        let has_app = keys.client_id.is_some() || keys.write_token.is_some() || keys.otlp_endpoint.is_some();
        if matches!(self.destination, Destination::Hub(_)) && !has_app {
            return Err(ConfigError::Value(ValueError::NoApp));
        }
        let containers = containers::of_app(pod, &names)
            .map_err(|error| ConfigError::Value(ValueError::UnknownContainer(error)))?;
        let running = containers.into_iter().filter_map(|container| Some((container, id_of(container)?)));
        let target = |(container, id): (&Container, ContainerId)| {
            let spec = by(TargetSpec::Container(ContainerName::Id(id)));
            let mut target = target::understand(spec, &keys, &self.destination)?;
            target.policy.ports = ports.clone().unwrap_or_default();
            target.pod = Some(OfPod {
                pod: pod.name.clone(),
                workload: pod.workload.clone(),
                container: container.name.clone(),
            });
            Ok(target)
        };
        running.map(target).collect()
    }

    fn label(&self, pod: &Pod, label: Option<&String>) -> Option<Given<String>> {
        let label = label?;
        let value = pod.labels.get(label).filter(|value| !value.is_empty())?.clone();
        Some(Given { value, by: Origin::Label(label.clone()) })
    }
}

fn id_of(container: &Container) -> Option<ContainerId> {
    container.id.as_deref().and_then(ContainerId::parse)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::PathBuf};

    use super::*;
    use crate::{
        cli::{Cli, RunArgs},
        config::{Config, Delivery},
        kubernetes::pod::PodName,
    };

    const ID: &str = "76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9";
    const OTHER_ID: &str = "8b5a1c6e-3d7f-4e0a-9c42-5f1d2e3a4b6c";
    const CONTAINER: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn load(text: &str, words: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("agent.toml");
        fs::write(&path, text.replace("OTHER", OTHER_ID).replace("ID", ID)).unwrap();
        let words = words.replace("OTHER", OTHER_ID).replace("ID", ID);
        let words = std::iter::once("apitally-agent").chain(words.split_whitespace());
        let args = RunArgs { config: Some(path), ..Cli::of(words).unwrap().run };
        Config::load(&args)
            .map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let fill = |text: &str| text.replace("OTHER", OTHER_ID).replace("ID", ID);
        pairs.iter().map(|(key, value)| ((*key).to_owned(), fill(value))).collect()
    }

    /// A pod shop/web-1 of the workload web, with the containers api and envoy, both of which run.
    fn pod(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> Pod {
        let container = |name: &str| Container {
            name: name.to_owned(),
            id: Some(CONTAINER.to_owned()),
            is_sidecar: false,
        };
        Pod {
            name: PodName { namespace: "shop".to_owned(), name: "web-1".to_owned() },
            workload: "web".to_owned(),
            labels: map(labels),
            annotations: map(annotations),
            containers: vec![container("api"), container("envoy")],
        }
    }

    const NODE: &str = "[kubernetes]\nnode = \"a\"\n";

    /// The targets of a pod: name, app, environment, version, ports.
    fn targets(file: &str, words: &str, pod: &Pod) -> Result<Vec<String>, String> {
        let config = load(file, words)?.kubernetes.expect("there is a table");
        let targets = config.targets_of(pod).map_err(|error| error.to_string())?;
        let describe = |target: TargetConfig| {
            let name = target.pod.as_ref().map(OfPod::stable_name).unwrap_or_default();
            let (app, env) = match &target.delivery {
                Delivery::Hub(hub) => (hub.client_id.to_string(), hub.env.to_string()),
                other => (format!("{other:?}"), String::new()),
            };
            let (app, version) =
                (app.replace(OTHER_ID, "OTHER").replace(ID, "ID"), target.app.version.as_deref());
            format!("{name} {app} {env} {} {:?}", version.unwrap_or("-"), target.policy.ports)
        };
        Ok(targets.into_iter().map(describe).collect())
    }

    fn check(file: &str, words: &str, pod: &Pod, want: &[&str]) {
        assert_eq!(targets(file, words, pod).unwrap(), want, "{file} {words} {pod:?}");
    }

    #[test]
    fn annotations_choose_and_configure_a_pod() {
        check(NODE, "", &pod(&[], &[]), &[]);
        check(NODE, "", &pod(&[], &[("env", "prod")]), &[]);
        check(NODE, "", &pod(&[], &[("client-id", "ID")]), &["shop/web/api ID dev - []"]);
        let said = [
            ("client-id", "ID"),
            ("env", "prod"),
            ("app-version", "1.2"),
            ("port", "80, 8080"),
            ("container", "envoy"),
        ];
        check(NODE, "", &pod(&[], &said), &["shop/web/envoy ID prod 1.2 [80, 8080]"]);
        check(NODE, "", &pod(&[], &[("client-id", "ID"), ("watch", "false")]), &[]);
        // The app of all pods, for those that ask to be watched.
        let file = &format!("client_id = \"ID\"\nenv = \"one\"\n{NODE}");
        check(file, "", &pod(&[], &[]), &[]);
        check(file, "", &pod(&[], &[("watch", "true")]), &["shop/web/api ID one - []"]);
    }

    #[test]
    fn rules_choose_pods_that_do_not_ask() {
        let rule = "[[kubernetes.pods]]\nselector = \"app=web\"\nclient_id = \"ID\"\nports = [80]\n";
        let file = &format!("{NODE}{rule}");
        check(file, "", &pod(&[("app", "web")], &[]), &["shop/web/api ID dev - [80]"]);
        check(file, "", &pod(&[("app", "db")], &[]), &[]);
        check(file, "", &pod(&[("app", "web")], &[("watch", "false")]), &[]);
        // What the pod says counts first.
        let own = [("client-id", "OTHER"), ("port", "81")];
        check(file, "", &pod(&[("app", "web")], &own), &["shop/web/api OTHER dev - [81]"]);
        // The first rule that means it.
        let all =
            "[[kubernetes.pods]]\nnamespace = \"shop\"\nclient_id = \"OTHER\"\ncontainers = [\"envoy\"]\n";
        check(&format!("{file}{all}"), "", &pod(&[("app", "web")], &[]), &["shop/web/api ID dev - [80]"]);
        check(&format!("{file}{all}"), "", &pod(&[("app", "db")], &[]), &["shop/web/envoy OTHER dev - []"]);
        check(&format!("{file}{}", all.replace("shop", "blog")), "", &pod(&[("app", "db")], &[]), &[]);
        // Pods may have no say.
        let file = &format!("{NODE}annotations = false\n{rule}");
        check(file, "", &pod(&[("app", "web")], &own), &["shop/web/api ID dev - [80]"]);
        check(file, "", &pod(&[], &own), &[]);
    }

    #[test]
    fn the_manifest_of_the_configuration_can_be_used() {
        let text = include_str!("../../../deploy/kubernetes/agent.toml");
        let uncommented = |line: &str| {
            line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned()
        };
        let everything = text.lines().map(uncommented).collect::<Vec<_>>().join("\n");
        for text in [text, &everything] {
            let text = text.replace("[kubernetes]", "[kubernetes]\nnode = \"a\"");
            let labels = [("app.kubernetes.io/version", "7"), ("app", "web")];
            let targets = targets(&text, "", &pod(&labels, &[("client-id", "ID"), ("env", "own")]));
            assert_eq!(targets.unwrap(), ["shop/web/api ID own 7 []"]);
        }
    }

    #[test]
    fn labels_say_environment_and_version_where_asked() {
        let file = &format!(
            "env = \"top\"\n{NODE}env_label = \"stage\"\napp_version_label = \"app.kubernetes.io/version\"\n"
        );
        let labels = [("stage", "test"), ("app.kubernetes.io/version", "7")];
        let id = ("client-id", "ID");
        check(file, "", &pod(&labels, &[id]), &["shop/web/api ID test 7 []"]);
        check(file, "", &pod(&labels, &[id, ("env", "own")]), &["shop/web/api ID own 7 []"]);
        check(file, "", &pod(&[], &[id]), &["shop/web/api ID top - []"]);
        check(file, "--env flag", &pod(&[], &[id]), &["shop/web/api ID flag - []"]);
        check(file, "--env flag", &pod(&labels, &[id]), &["shop/web/api ID test 7 []"]);
        check(NODE, "", &pod(&labels, &[id]), &["shop/web/api ID dev - []"]);
        let error = targets(file, "", &pod(&[("stage", "a.b")], &[id])).unwrap_err();
        assert!(error.starts_with("label stage: environment name"), "{error}");
    }

    #[test]
    fn what_a_pod_says_wrong_is_named() {
        let check = |annotations: &[(&str, &str)], want: &str| {
            let error = targets(NODE, "", &pod(&[], annotations)).unwrap_err();
            assert!(error.contains(want), "{error}");
        };
        let id = ("client-id", "ID");
        check(&[("client-id", "42")], "annotation apitally.io/client-id: client id is not a UUID");
        check(&[id, ("env", "a b")], "annotation apitally.io/env: environment name");
        check(
            &[id, ("port", "http")],
            "annotation apitally.io/port is \"http\"; it must be a port from 1 to 65535",
        );
        check(&[id, ("port", "0")], "annotation apitally.io/port is \"0\"; it must be a port");
        check(&[id, ("port", "1,2,3,4,5")], "it must be four ports at most");
        check(&[id, ("container", "web")], "the pod has no container \"web\"; it has api, envoy");
        check(
            &[id, ("clientid", "x")],
            "apitally.io/clientid is unknown; did you mean apitally.io/client-id?",
        );
        check(
            &[id, ("openapi", "/etc/shadow")],
            "apitally.io/openapi is unknown; known are app-version, client",
        );
        check(
            &[id, ("watch", "yes")],
            "annotation apitally.io/watch is \"yes\"; it must be \"true\" or \"false\"",
        );
        check(&[id, ("consumer-header", "a:b")], "apitally.io/consumer-header: \"a:b\" is not a header name");
        check(&[id, ("env", &"x".repeat(5000))], "apitally.io/env is longer than 4096 bytes");
        check(&[id, ("routes", "items")], "items");
        check(&[("watch", "true")], "annotate the pod with apitally.io/client-id");
    }

    #[test]
    fn what_is_wrong_in_the_table_is_said_with_its_place() {
        let check = |text: &str, want: &str| {
            let error = load(text, "").map(drop).unwrap_err();
            assert!(error.starts_with(want), "{error}");
        };
        check(
            "[kubernetes]\nnodes = \"a\"",
            "agent.toml:2:1: unknown key `nodes` in [kubernetes]; did you mean `node`?",
        );
        check(
            "[kubernetes]\nnode = \"a,b\"",
            "agent.toml:2:8: `node` is \"a,b\", which is no name of a node",
        );
        check(
            &format!("{NODE}env_label = \"\""),
            "agent.toml:3:13: `env_label` is \"\", which is no name of a label",
        );
        check(
            &format!("{NODE}[[kubernetes.pods]]\nselector = \"a b\""),
            "agent.toml:4:12: \"a b\" is no selector",
        );
        check(
            &format!("{NODE}[[kubernetes.pods]]\nenv = \"a\""),
            "agent.toml:3:1: [[kubernetes.pods]]: it means no pods",
        );
        check(
            &format!("{NODE}[[kubernetes.pods]]\nnamespace = \"a\"\nports = [0]"),
            "agent.toml:5:9: `ports` in",
        );
        check(
            &format!("{NODE}[[kubernetes.pods]]\nnamespace = \"a\"\nports = [1, 2, 3, 4, 5]"),
            "agent.toml:5:9: `ports` has 5 ports; name 4 at most",
        );
        check(
            &format!("{NODE}[[kubernetes.pods]]\nnamespace = \"a\"\nclient_id = \"x\""),
            "agent.toml:5:13: ",
        );
        check(
            "[kubernetes]\nring_bytes = 4096",
            "agent.toml:2:1: unknown key `ring_bytes` in [kubernetes]; it belongs",
        );
    }
}
