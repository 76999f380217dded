//! A Kubernetes cluster as far as the agent sees of one.
//!
//! The API server is the real one, with its authentication, RBAC, validation and watches, on a real etcd. There are no
//! controllers, no scheduler and no kubelet. What these would do, tests do in their place: pods are made where a
//! DaemonSet or a Deployment would make them, on a node that is in their name alone; [`Container`] starts processes as
//! a runtime would, and the status that a kubelet would report is written by whoever started them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::app::{free_port, installed};
use crate::cgroup::{Cgroup, Hierarchy};
use crate::eventually::eventually;
use crate::process::{ProcessGroup, ending_with_us};
use crate::scratch::Scratch;

/// It prepares for a while before it is ready, on a busy machine for longer.
const START: Duration = Duration::from_secs(120);
const ADMIN: &str = "0b2f7c1e-admin";
/// Addresses of services, of which the first is the API server's own.
const SERVICES: &str = "10.0.0.0/24";

/// An API server that runs, with its database. Killed when dropped; a failing test prints the end of its log.
#[derive(Debug)]
pub struct ApiServer {
    etcd: ProcessGroup,
    /// None while it is down.
    server: Option<ProcessGroup>,
    port: u16,
    etcd_port: u16,
    dir: Scratch,
}

impl ApiServer {
    /// Starts both, and waits until requests are answered.
    ///
    /// # Panics
    /// When they are not, or when one of them is not installed.
    pub fn start() -> Self {
        let dir = Scratch::new("cluster");
        let key = rcgen::KeyPair::generate().expect("a key for service accounts");
        write(&dir.join("account.key"), &key.serialize_pem());
        write(&dir.join("account.pub"), &key.public_key_pem());
        write(&dir.join("tokens"), &format!("{ADMIN},admin,admin,system:masters\n"));
        let (port, etcd_port, peer_port) = (free_port(), free_port(), free_port());
        let [client_url, peer_url] = [etcd_port, peer_port].map(|port| format!("http://127.0.0.1:{port}"));
        let mut etcd = ending_with_us("/usr/bin/etcd");
        etcd.arg("--data-dir").arg(dir.join("etcd"));
        etcd.args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url]);
        etcd.args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url]);
        etcd.args(["--initial-cluster", &format!("default={peer_url}"), "--unsafe-no-fsync"]);
        let etcd = ProcessGroup::start(&mut etcd, &dir.join("etcd.log"));
        let mut cluster = Self { etcd, server: None, port, etcd_port, dir };
        cluster.come_back();
        cluster
    }

    /// Kills the server; what it knows stays in the database.
    pub fn go_down(&mut self) {
        self.server = None;
    }

    /// # Panics
    /// When it does not answer in time.
    pub fn come_back(&mut self) {
        let mut command = ending_with_us(installed("kube-apiserver"));
        let file = |name: &str| self.dir.join(name).display().to_string();
        command.args([
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            format!("--secure-port={}", self.port),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--cert-dir={}", file("certificates")),
            format!("--token-auth-file={}", file("tokens")),
            "--authorization-mode=RBAC".to_owned(),
            // The token of an account is mounted by the test, and the account `default` is made by a controller.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-signing-key-file={}", file("account.key")),
            format!("--service-account-key-file={}", file("account.pub")),
            format!("--service-cluster-ip-range={SERVICES}"),
        ]);
        self.server = Some(ProcessGroup::start(&mut command, &self.dir.join("log")));
        eventually("the API server is ready", START, || {
            let server = self.server.as_mut().expect("it was started");
            assert!(!server.leader_has_exited(), "the API server ended\n{}", self.log());
            (self.dir.join("certificates/apiserver.crt").exists()
                && self.try_get("/readyz").as_deref() == Ok("ok"))
            .then_some(())
        });
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificates by which it is known, in PEM.
    pub fn certificates(&self) -> PathBuf {
        self.dir.join("certificates/apiserver.crt")
    }

    /// Makes the objects of a file of YAML, as `kubectl create` does.
    ///
    /// # Panics
    /// When one of them is refused, with what the server says about it.
    pub fn create_all(&self, yaml: &str) {
        for document in yaml.split("\n---\n").filter(|document| document.contains("kind:")) {
            let path = collection_of(document);
            self.ask("POST", &path, "application/yaml", document);
        }
    }

    /// # Panics
    /// When it is refused.
    pub fn create(&self, collection: &str, object: &Value) -> Value {
        self.ask("POST", collection, "application/json", &object.to_string())
    }

    /// # Panics
    /// When it is not there.
    pub fn get(&self, path: &str) -> Value {
        self.ask("GET", path, "application/json", "")
    }

    /// Merges `patch` into what is at this path.
    ///
    /// # Panics
    /// When it is refused.
    pub fn patch(&self, path: &str, patch: &Value) -> Value {
        self.ask("PATCH", path, "application/merge-patch+json", &patch.to_string())
    }

    /// Removes what is at this path, at once.
    ///
    /// # Panics
    /// When it is refused.
    pub fn delete(&self, path: &str) {
        self.ask("DELETE", &format!("{path}?gracePeriodSeconds=0"), "application/json", "");
    }

    /// A token of a service account, as a kubelet would mount it into a pod.
    ///
    /// # Panics
    /// When there is no such account.
    pub fn token(&self, namespace: &str, account: &str) -> String {
        let version = "authentication.k8s.io/v1";
        let request = json!({"apiVersion": version, "kind": "TokenRequest", "spec": {"audiences": []}});
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let token = self.create(&path, &request);
        token["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Whether a service account has a right, in all namespaces.
    ///
    /// # Panics
    /// When the server does not say.
    pub fn allows(&self, namespace: &str, account: &str, verb: &str, group: &str, resource: &str) -> bool {
        let wanted = json!({"verb": verb, "group": group, "resource": resource});
        let user = format!("system:serviceaccount:{namespace}:{account}");
        let review = json!({"spec": {"user": user, "resourceAttributes": wanted}});
        let answer = self.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review);
        answer["status"]["allowed"].as_bool().expect("the server has an opinion")
    }

    /// Everything the server printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn ask(&self, method: &str, path: &str, content_type: &str, body: &str) -> Value {
        let answer = self.try_ask(method, path, content_type, body);
        let answer = answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        assert!(answer["status"] != "Failure", "{method} {path}: {answer}\n{body}");
        answer
    }

    fn try_get(&self, path: &str) -> Result<String, String> {
        self.try_ask("GET", path, "application/json", "")
    }

    fn try_ask(&self, method: &str, path: &str, content_type: &str, body: &str) -> Result<String, String> {
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--max-time",
            "30",
            "--request",
            method,
            "--data-binary",
            "@-",
        ]);
        command.arg("--cacert").arg(self.certificates());
        command.args(["--header", &format!("Authorization: Bearer {ADMIN}")]);
        command.args(["--header", &format!("Content-Type: {content_type}")]);
        command.arg(format!("https://127.0.0.1:{}{path}", self.port));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("curl: {error}"))?;
        let mut stdin = child.stdin.take().expect("it is piped");
        // One that does not want it has ended, and says why.
        let _ = stdin.write_all(body.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().map_err(|error| format!("curl: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.server = None;
        self.etcd.kill();
        if std::thread::panicking() {
            let log = self.log();
            let last: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("--- log of the API server\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Where objects of a document's kind are made.
fn collection_of(document: &str) -> String {
    let value = |key: &str| document.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let (version, kind) = (value("apiVersion:").expect("a version"), value("kind:").expect("a kind"));
    let root = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
    let plural = format!("{}s", kind.to_lowercase());
    match value("  namespace:") {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
        None => format!("{root}/{plural}"),
    }
}

/// Who lays out control groups, and how: the kubelet and the runtime, by the driver they were given.
#[derive(Clone, Copy, Debug)]
pub enum Layout {
    /// Systemd driver, containerd; version 2 of control groups where that is mounted.
    Systemd,
    /// Cgroupfs driver, CRI-O; version 1 where that is mounted.
    Cgroupfs,
}

/// A container that runs: processes in pid and mount namespaces of their own, in control groups called as the kubelet
/// and the runtime call them. Its network and its files are the host's. Killed when dropped.
#[derive(Debug)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    runtime: &'static str,
    group: ProcessGroup,
    /// Dropped after the processes in it.
    _cgroup: Cgroup,
    _dir: Scratch,
}

impl Container {
    /// Starts the first process of a container of the pod with this uid.
    ///
    /// # Panics
    /// When namespaces or control groups cannot be made here.
    pub fn start(layout: Layout, pod_uid: &str, program: &Path, args: &[&str]) -> Self {
        let id = random_id();
        let (runtime, cgroup) = match layout {
            Layout::Systemd => {
                let pod = format!("kubepods-burstable-pod{}.slice", pod_uid.replace('-', "_"));
                let path = format!("kubepods.slice/kubepods-burstable.slice/{pod}/cri-containerd-{id}.scope");
                ("containerd", Cgroup::new(Hierarchy::OfSystemd, &path))
            }
            Layout::Cgroupfs => {
                let path = format!("kubepods/burstable/pod{pod_uid}/crio-{id}");
                ("cri-o", Cgroup::new(Hierarchy::OfController, &path))
            }
        };
        let dir = Scratch::new("container");
        let mut command = ending_with_us("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
            .arg(program)
            .args(args);
        let group = ProcessGroup::start(&mut cgroup.enter(command), &dir.join("log"));
        Self { id, runtime, group, _cgroup: cgroup, _dir: dir }
    }

    /// Of the process that the runtime started, on the host.
    pub fn pid(&self) -> u32 {
        self.group.pid()
    }

    /// What a kubelet reports of a pod that has this container alone.
    pub fn status(&self, name: &str) -> Value {
        let container = json!({
            "name": name,
            "containerID": format!("{}://{}", self.runtime, self.id),
            "image": "registry.example/app:1",
            "imageID": "",
            "ready": true,
            "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        });
        json!({"status": {"phase": "Running", "containerStatuses": [container]}})
    }
}

fn random_id() -> String {
    let uuid = || fs::read_to_string("/proc/sys/kernel/random/uuid").expect("the kernel has random numbers");
    let digits = |uuid: String| uuid.trim().replace('-', "");
    format!("{}{}", digits(uuid()), digits(uuid()))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
