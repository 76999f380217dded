//! Kubernetes: the way from a pod to its counts, past a real API server, in real pid and mount namespaces and control
//! groups that are called as the kubelet calls them. `tests::cluster` says who is stood in for.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::{Agent, AgentBuilder, LogLine};
use tests::app::{apps_dir, free_port, installed, workspace};
use tests::client::{Address, Client, Request};
use tests::cluster::{ApiServer, Container, Layout};
use tests::eventually::eventually;
use tests::fake_hub::{FakeHub, Kind};
use tests::machine;
use tests::origin::built;
use tests::scratch::Scratch;
use tests::totals::Totals;

use super::errors::attempt::{Attempt, UNAVAILABLE};

const SHOP: &str = "76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9";
const BLOG: &str = "8b5a1c6e-3d7f-4e0a-9c42-5f1d2e3a4b6c";
const NODE: &str = "node-a";
const PODS: &str = "/api/v1/namespaces/shop/pods";
const DAEMON_SET: &str = "/apis/apps/v1/namespaces/apitally/daemonsets/apitally-agent";
/// Where the DaemonSet has one.
const EMPTY_DIR: &str = "/run";
/// The API server is slow on a busy machine, and the agent asks again later and later when it was away.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn pods_come_change_restart_and_go() {
    let _machine = machine::in_company();
    let (hub, dir, mut cluster) = (FakeHub::start(), Scratch::new("kubernetes"), prepared());
    cluster.create_all(&manifest("rbac.yaml"));
    let file = dir.join("agent.toml");
    let rule = format!("[[kubernetes.pods]]\nselector = \"app in (blog)\"\nclient_id = \"{BLOG}\"\n");
    let config = format!("hub_url = \"{}\"\nsync_interval = \"200ms\"\n[kubernetes]\n{rule}", hub.url());
    fs::write(&file, config).expect("a fresh directory can be written to");

    // One is there before the agent, one of another node, and one that nobody asked for.
    let web =
        Pod::create(&cluster, "web", NODE, &json!({"apitally.io/client-id": SHOP, "apitally.io/env": "one"}));
    let mut web_app = App::start(Layout::Systemd, &web.uid);
    web.runs(&cluster, &web_app.container);
    let elsewhere = Pod::create(&cluster, "elsewhere", "node-b", &json!({"apitally.io/client-id": SHOP}));
    let elsewhere_app = App::start(Layout::Systemd, &elsewhere.uid);
    elsewhere.runs(&cluster, &elsewhere_app.container);
    let silent = Pod::create(&cluster, "silent", NODE, &json!({}));
    let silent_app = App::start(Layout::Systemd, &silent.uid);
    silent.runs(&cluster, &silent_app.container);

    let account = account(&cluster, &dir);
    let agent = in_cluster(Agent::configured_by(&file), &cluster, &account).start();
    watched(&agent, &web_app.container);
    web_app.ask(5);
    elsewhere_app.ask(3);
    silent_app.ask(3);
    counted(&hub, SHOP, "one", 5);

    assert_eq!(agent.status()["targets"][0]["spec"], "pod shop/web container app");

    // One that a rule means, with control groups of version 1.
    let blog = Pod::create(&cluster, "blog", NODE, &json!({}));
    let blog_app = App::start(Layout::Cgroupfs, &blog.uid);
    blog.runs(&cluster, &blog_app.container);
    watched(&agent, &blog_app.container);
    blog_app.ask(4);
    counted(&hub, BLOG, "dev", 4);

    // Another environment.
    web.annotate(&cluster, &json!({"apitally.io/env": "two"}));
    said_of(&agent, "web", "a pod is to be watched", 2);
    web_app.ask(6);
    counted(&hub, SHOP, "two", 6);

    // None that can be used: all goes on, and the log says what is wrong.
    web.annotate(&cluster, &json!({"apitally.io/env": "t w o"}));
    let warning = said_of(&agent, "web", "the pod cannot be watched as it says", 1);
    let error = warning.field("error").and_then(Value::as_str).unwrap_or_default();
    assert!(error.contains("annotation apitally.io/env: environment name"), "{error}");
    web_app.ask(1);
    counted(&hub, SHOP, "two", 7);
    web.annotate(&cluster, &json!({"apitally.io/env": "two"}));
    said_of(&agent, "web", "a pod is to be watched", 3);

    // The container is started anew, and goes on under the same name.
    drop(web_app);
    web_app = App::start(Layout::Systemd, &web.uid);
    web.runs(&cluster, &web_app.container);
    watched(&agent, &web_app.container);
    web_app.ask(2);
    counted(&hub, SHOP, "two", 9);
    let instances = instances(&hub, SHOP, "two");
    assert_eq!(instances.len(), 1, "{instances:?}");

    // The API server is away: what is known is watched on. When it is back, there is news.
    cluster.go_down();
    eventually("the agent notices", PATIENCE, || {
        let is_said =
            |line: &LogLine| line.message().is_some_and(|text| text.contains("tells nothing of pods"));
        agent.log().iter().any(is_said).then_some(())
    });
    web_app.ask(8);
    counted(&hub, SHOP, "two", 17);
    is_not_back(&agent);
    cluster.come_back();
    let late = Pod::create(
        &cluster,
        "late",
        NODE,
        &json!({"apitally.io/client-id": SHOP, "apitally.io/env": "late"}),
    );
    let late_app = App::start(Layout::Systemd, &late.uid);
    late.runs(&cluster, &late_app.container);
    watched(&agent, &late_app.container);
    late_app.ask(2);
    counted(&hub, SHOP, "late", 2);

    // A pod that is gone has its last words, and nothing after them.
    blog_app.ask(1);
    cluster.delete(&format!("{PODS}/blog"));
    eventually("the pod is watched no longer", PATIENCE, || {
        let target = format!("--container {}", blog_app.container.id);
        let is_it = |line: &LogLine| {
            line.message() == Some("watched no longer")
                && line.field("target") == Some(&target.clone().into())
        };
        agent.log().iter().any(is_it).then_some(())
    });
    blog_app.ask(3);
    counted(&hub, BLOG, "dev", 5);
    agent.stop();
    let (web, late, blog) = (5 + 17, 2, 5);
    assert_eq!(hub.totals().count(), web + late + blog);
    assert_eq!(hub.duplicates(), Vec::<String>::new());
}

/// Of a server on two ports one counts, and then both.
#[test]
fn ports_of_a_pod_count_as_it_says() {
    let _machine = machine::in_company();
    let (hub, dir, cluster) = (FakeHub::start(), Scratch::new("kubernetes"), prepared());
    cluster.create_all(&manifest("rbac.yaml"));
    let file = dir.join("agent.toml");
    let config = format!("hub_url = \"{}\"\nsync_interval = \"200ms\"\n[kubernetes]\n", hub.url());
    fs::write(&file, config).expect("a fresh directory can be written to");
    let ports = [free_port(), free_port()];
    let annotations = json!({"apitally.io/client-id": SHOP, "apitally.io/port": ports[0].to_string()});
    let web = Pod::create(&cluster, "web", NODE, &annotations);
    let [first, second] = ports.map(|port| port.to_string());
    let hello = apps_dir().join("hello.py").display().to_string();
    let container = Container::start(
        Layout::Systemd,
        &web.uid,
        Path::new("/usr/bin/python3"),
        &[&hello, &first, &second],
    );
    let addresses = ports.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    for address in addresses {
        eventually("the server listens", PATIENCE, || TcpStream::connect(address).ok());
    }
    web.runs(&cluster, &container);
    let account = account(&cluster, &dir);
    let agent = in_cluster(Agent::configured_by(&file), &cluster, &account).start();
    watched(&agent, &container);
    let ask = |address: SocketAddr, times: usize| {
        let mut client = Client::of(&Address::Tcp(address));
        (0..times).for_each(|_| assert_eq!(client.send(&Request::get("/hello")).exchange.status, 200));
    };
    ask(addresses[1], 3);
    ask(addresses[0], 5);
    counted(&hub, SHOP, "dev", 5);

    web.annotate(&cluster, &json!({"apitally.io/port": format!("{first}, {second}")}));
    said_of(&agent, "web", "a pod is to be watched", 2);
    ask(addresses[1], 2);
    ask(addresses[0], 4);
    counted(&hub, SHOP, "dev", 11);
    agent.stop();
    assert_eq!(hub.totals().count(), 11);
}

#[test]
fn a_refusal_says_which_right_is_missing() {
    let _machine = machine::in_company();
    let (hub, dir, cluster) = (FakeHub::start(), Scratch::new("kubernetes"), prepared());
    // An account, and no rights.
    cluster.create_all(manifest("rbac.yaml").split("\n---\n").next().expect("it begins with the account"));
    let beside = App::start(Layout::Systemd, "0");
    let config = format!(
        "hub_url = \"{}\"\nsync_interval = \"200ms\"\nclient_id = \"{BLOG}\"\n[kubernetes]\n[[target]]\npid = {}\n",
        hub.url(),
        beside.container.pid()
    );
    let file = dir.join("agent.toml");
    fs::write(&file, config).expect("a fresh directory can be written to");
    let account = account(&cluster, &dir);
    let agent = in_cluster(Agent::configured_by(&file), &cluster, &account).start();
    trouble(
        &agent,
        "we may not list pods (403): the ClusterRole of our service account needs the verbs list and watch",
    );
    beside.ask(3);
    counted(&hub, BLOG, "dev", 3);
    is_not_back(&agent);

    // It goes on by itself once it may.
    let rest =
        manifest("rbac.yaml").split("\n---\n").skip(1).map(str::to_owned).collect::<Vec<_>>().join("\n---\n");
    cluster.create_all(&rest);
    let web = Pod::create(&cluster, "web", NODE, &json!({"apitally.io/client-id": SHOP}));
    let web_app = App::start(Layout::Systemd, &web.uid);
    web.runs(&cluster, &web_app.container);
    watched(&agent, &web_app.container);
    agent.stop();

    fs::write(account.join("token"), "nonsense").expect("the directory is ours");
    let stranger = in_cluster(Agent::configured_by(&file), &cluster, &account).start();
    trouble(&stranger, "it does not know our service account's token (401)");
    stranger.stop();
}

/// A probe that always fails has every agent be killed again and again.
#[test]
fn the_probe_asks_where_the_agent_answers() {
    let _machine = machine::in_company();
    let (dir, cluster) = (Scratch::new("kubernetes"), prepared());
    cluster.create_all(&manifest("rbac.yaml"));
    cluster.create_all(&manifest("daemonset.yaml"));
    let set = cluster.get(DAEMON_SET);
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let mounts = container["volumeMounts"].as_array().expect("it has mounts");
    let runtime = mounts.iter().find(|mount| mount["name"] == "runtime").expect("one is for the socket");
    assert_eq!(runtime["mountPath"], EMPTY_DIR);
    assert_eq!(container["livenessProbe"]["exec"]["command"], json!(["/apitally-agent", "status"]));

    let app = App::start(Layout::Systemd, "0");
    let file = dir.join("agent.toml");
    let config = format!("[kubernetes]\n[[target]]\npid = {}\n", app.container.pid());
    fs::write(&file, config).expect("a fresh directory can be written to");
    let account = account(&cluster, &dir);
    let agent = Agent::configured_by(&file).arg("--dry-run").in_the_usual_runtime_dir();
    let agent = in_cluster(agent, &cluster, &account).start();
    // The socket is there by then.
    agent.eventually_says("sync", 1);
    let pid = agent.pid().to_string();
    let inside = ["nsenter", "--target", &pid, "--mount", "--"];
    Attempt::through(&inside, "status").run().assert_printed(0, &[&format!("pid {pid}, up ")]);
    agent.stop();
}

#[test]
fn check_says_what_the_api_server_says() {
    let _machine = machine::in_company();
    let (dir, mut cluster) = (Scratch::new("kubernetes"), prepared());
    // An account, and no rights.
    let rbac = manifest("rbac.yaml");
    let (service_account, rights) = rbac.split_once("\n---\n").expect("it begins with the account");
    cluster.create_all(service_account);
    let file = dir.join("agent.toml");
    fs::write(&file, "[kubernetes]\n").expect("a fresh directory can be written to");
    let account = account(&cluster, &dir);
    let check = |cluster: &ApiServer| {
        let words = in_cluster_words(cluster, &account);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Attempt::through(&words, &format!("check --config {}", file.display())).run()
    };
    let refused = ["kubernetes\n  pods of node   node-a\n", "we may not list pods (403): the ClusterRole"];
    check(&cluster).assert_printed(UNAVAILABLE, &refused);

    cluster.create_all(rights);
    eventually("the server knows of the rights", PATIENCE, || {
        cluster.allows("apitally", "apitally-agent", "list", "", "pods").then_some(())
    });
    let empty = ["answers\n  pods           none on this node; ", "annotate the pods of an app"];
    check(&cluster).assert_printed(0, &empty);

    let web = Pod::create(&cluster, "web", NODE, &json!({"apitally.io/client-id": SHOP}));
    let app = App::start(Layout::Systemd, &web.uid);
    web.runs(&cluster, &app.container);
    Pod::create(&cluster, "wrong", NODE, &json!({"apitally.io/clientid": SHOP}));
    Pod::create(&cluster, "silent", NODE, &json!({}));
    Pod::create(&cluster, "elsewhere", "node-b", &json!({"apitally.io/client-id": SHOP}));
    let found = [
        "  pods           3 on this node\n  to be watched  pod shop/web container app\n",
        "  warning        pod shop/wrong: annotation apitally.io/clientid is unknown; did you mean ",
        "the agent can run here",
    ];
    check(&cluster).assert_printed(0, &found);

    cluster.go_down();
    let away =
        ["  - the API server at https://127.0.0.1:", "/ tells nothing of pods: ", "Connection refused"];
    check(&cluster).assert_printed(UNAVAILABLE, &away);
}

#[test]
fn manifests_are_taken_and_give_few_rights() {
    let _machine = machine::in_company();
    let cluster = prepared();
    cluster.create_all(&manifest("rbac.yaml"));
    cluster.create_all(&manifest("daemonset.yaml"));
    let set = cluster.get(DAEMON_SET);
    let pod = &set["spec"]["template"]["spec"];
    assert_eq!((&pod["hostPID"], &pod["serviceAccountName"]), (&true.into(), &"apitally-agent".into()));
    let security = &pod["containers"][0]["securityContext"];
    assert_eq!(security["capabilities"], json!({"drop": ["ALL"], "add": ["BPF", "PERFMON", "SYS_PTRACE"]}));
    assert_eq!(security["privileged"], json!(false));

    let may = |verb, group, resource| cluster.allows("apitally", "apitally-agent", verb, group, resource);
    assert!(may("list", "", "pods") && may("watch", "", "pods"));
    for (verb, group, resource) in [
        ("get", "", "pods"),
        ("patch", "", "pods"),
        ("delete", "", "pods"),
        ("create", "", "pods/exec"),
        ("list", "", "secrets"),
        ("list", "", "configmaps"),
        ("list", "", "nodes"),
        ("create", "", "events"),
        ("list", "apps", "deployments"),
    ] {
        assert!(!may(verb, group, resource), "it may {verb} {resource}");
    }
}

#[test]
fn manifests_fit_the_schemas_of_kubernetes() {
    let dir = Scratch::new("manifests");
    let files = ["namespace.yaml", "rbac.yaml", "daemonset.yaml"];
    for version in ["1.25", "1.31", "1.37"] {
        for file in files {
            let (is_valid, said) = validate(version, &workspace().join("deploy/kubernetes").join(file));
            assert!(is_valid, "{file} against {version}: {said}");
        }
        // A word that is not quite right is noticed.
        let wrong = dir.join("wrong.yaml");
        fs::write(&wrong, manifest("daemonset.yaml").replace("hostPID", "hostPid")).expect("it is ours");
        let (is_valid, said) = validate(version, &wrong);
        assert!(!is_valid && said.contains("'hostPid' was unexpected"), "{said}");
    }
}

/// Whether a manifest fits the schemas of a version, and what is said about it.
fn validate(version: &str, file: &Path) -> (bool, String) {
    let mut command = Command::new(installed("kubernetes/bin/kubernetes-validate"));
    let output = command.args(["--strict", "--kubernetes-version", version]).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// With the namespaces that the tests use.
fn prepared() -> ApiServer {
    let cluster = ApiServer::start();
    cluster.create_all(&manifest("namespace.yaml"));
    cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "shop"}}));
    cluster
}

fn manifest(name: &str) -> String {
    let path = workspace().join("deploy/kubernetes").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a kubelet mounts into the pod of a service account.
fn account(cluster: &ApiServer, dir: &Path) -> PathBuf {
    let account = dir.join("account");
    fs::create_dir(&account).expect("a fresh directory can be written to");
    let write = |name: &str, text: &str| fs::write(account.join(name), text).expect("it is ours");
    write("token", &cluster.token("apitally", "apitally-agent"));
    write("namespace", "apitally");
    fs::copy(cluster.certificates(), account.join("ca.crt")).expect("the server has certificates");
    account
}

/// With what a pod of the DaemonSet has: the account where it belongs, the environment, the capabilities, and
/// namespaces of its own but for pids; and for the network, in which the API server and the hub are.
fn in_cluster(agent: AgentBuilder, cluster: &ApiServer, account: &Path) -> AgentBuilder {
    let words = in_cluster_words(cluster, account);
    agent.through(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

fn in_cluster_words(cluster: &ApiServer, account: &Path) -> Vec<String> {
    // The kubelet has everybody write to an emptyDir.
    let mount = format!(
        "mount -t tmpfs -o mode=0777 none {EMPTY_DIR} && mkdir -p /run/secrets/kubernetes.io && \
         ln -s \"$0\" /run/secrets/kubernetes.io/serviceaccount && \
         exec setpriv --no-new-privs --bounding-set=-all,+bpf,+perfmon,+sys_ptrace \
         --inh-caps=-all,+bpf,+perfmon,+sys_ptrace -- \"$@\""
    );
    let port = format!("KUBERNETES_SERVICE_PORT={}", cluster.port());
    let node = format!("NODE_NAME={NODE}");
    let account = account.to_str().expect("paths of tests are UTF-8");
    let environment =
        ["env", "--unset=KUBECONFIG", "HOME=/", "KUBERNETES_SERVICE_HOST=127.0.0.1", &port, &node];
    let mounts = ["unshare", "--mount", "--ipc", "--uts", "--cgroup", "--", "sh", "-c", &mount, account];
    environment.into_iter().chain(mounts).map(str::to_owned).collect()
}

struct Pod {
    name: String,
    uid: String,
}

impl Pod {
    /// Labelled with `app` and its name.
    fn create(cluster: &ApiServer, name: &str, node: &str, annotations: &Value) -> Self {
        let metadata = json!({"name": name, "labels": {"app": name}, "annotations": annotations});
        let containers = json!([{"name": "app", "image": "registry.example/app:1"}]);
        let spec = json!({"nodeName": node, "containers": containers, "automountServiceAccountToken": false});
        let pod = cluster.create(PODS, &json!({"metadata": metadata, "spec": spec}));
        let uid = pod["metadata"]["uid"].as_str().expect("the server gives it one").to_owned();
        Self { name: name.to_owned(), uid }
    }

    /// Reports as a kubelet does that its container runs.
    fn runs(&self, cluster: &ApiServer, container: &Container) {
        cluster.patch(&format!("{PODS}/{}/status", self.name), &container.status("app"));
    }

    fn annotate(&self, cluster: &ApiServer, annotations: &Value) {
        let patch = json!({"metadata": {"annotations": annotations}});
        cluster.patch(&format!("{PODS}/{}", self.name), &patch);
    }
}

/// A server in a container.
struct App {
    container: Container,
    address: SocketAddr,
}

impl App {
    fn start(layout: Layout, uid: &str) -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let container = Container::start(layout, uid, &built("axum-app"), &[&address.port().to_string()]);
        eventually("the server listens", PATIENCE, || TcpStream::connect(address).ok());
        Self { container, address }
    }

    fn ask(&self, times: usize) {
        let mut client = Client::of(&Address::Tcp(self.address));
        for _ in 0..times {
            assert_eq!(client.send(&Request::get("/blob/10")).exchange.status, 200);
        }
    }
}

fn watched(agent: &Agent, container: &Container) {
    let target = Value::from(format!("--container {}", container.id));
    eventually("the container is watched", PATIENCE, || {
        let is_it =
            |line: &LogLine| line.message() == Some("watching") && line.field("target") == Some(&target);
        agent.log().iter().any(is_it).then_some(())
    });
}

/// Waits until it is said of a pod for so many times; the last of these lines.
fn said_of(agent: &Agent, pod: &str, message: &str, times: usize) -> LogLine {
    let pod = Value::from(format!("shop/{pod}"));
    eventually(message, PATIENCE, || {
        let is_it = |line: &LogLine| line.message() == Some(message) && line.field("pod") == Some(&pod);
        agent.log().into_iter().filter(is_it).nth(times - 1)
    })
}

fn trouble(agent: &Agent, wanted: &str) {
    eventually(wanted, PATIENCE, || {
        let is_it = |line: &LogLine| {
            let error = line.field("error").and_then(Value::as_str);
            error.is_some_and(|error| error.contains(wanted))
        };
        agent.log().iter().any(is_it).then_some(())
    });
}

/// To be asked again is not to answer.
fn is_not_back(agent: &Agent) {
    let is_it = |line: &LogLine| line.message() == Some("the API server tells of pods again");
    assert!(!agent.log().iter().any(is_it), "it does not");
}

/// Waits until as many requests are reported, no more.
fn counted(hub: &FakeHub, app: &str, env: &str, want: u64) {
    let count = || {
        let accepted = hub.accepted();
        let is_its =
            |it: &&tests::fake_hub::Received| it.kind == Kind::Sync && it.client_id == app && it.env == env;
        Totals::of_syncs(accepted.iter().filter(is_its).map(|it| &it.body)).count()
    };
    eventually(&format!("{want} requests are reported to {env}, not {}", count()), PATIENCE, || {
        (count() >= want).then_some(())
    });
    assert_eq!(count(), want, "{app} {env}");
}

/// In whose name messages were sent.
fn instances(hub: &FakeHub, app: &str, env: &str) -> Vec<String> {
    let accepted = hub.accepted();
    let own = accepted.iter().filter(|it| it.client_id == app && it.env == env);
    let mut instances: Vec<String> =
        own.filter_map(|it| it.body["instance_uuid"].as_str().map(str::to_owned)).collect();
    instances.sort_unstable();
    instances.dedup();
    instances
}
