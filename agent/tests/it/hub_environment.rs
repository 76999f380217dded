//! What the client takes from the environment. Each test runs itself once more, in a process of its own, since
//! variables cannot be set safely in this one.

use std::{
    env, fs,
    process::{Command, Output},
    time::Duration,
};

use agent::delivery::Delivery;
use tests::fake_hub::{FakeHub, Kind};

use crate::hub_reporter::{CLIENT_ID, Reporter, config};

/// Set in the child: where it reports to.
const REPORT_TO: &str = "HUB_ENVIRONMENT_TEST_REPORT_TO";

/// Runs `test` again with these variables; there, [`reported_as_a_child`] reports to `url`.
fn report_in_a_child(test: &str, url: &str, variables: &[(&str, &str)]) -> Output {
    let mut child = Command::new(env::current_exe().unwrap());
    child.args(["--exact", &format!("hub_environment::{test}")]).env(REPORT_TO, url);
    for inherited in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        child.env_remove(inherited).env_remove(inherited.to_lowercase());
    }
    child.envs(variables.iter().copied()).output().unwrap()
}

/// In the child, sends one sync and gives true.
fn reported_as_a_child() -> bool {
    let Ok(url) = env::var(REPORT_TO) else { return false };
    let reporter = Reporter::start(config(&url));
    reporter.sync(1);
    let delivered = reporter.eventually("an answer", |state| state.last_answer.is_some());
    assert_eq!(delivered.delivered, 1, "{:?}", delivered.last_answer);
    assert_eq!(reporter.finish(Duration::from_secs(10)), Delivery { delivered: 0, undelivered: 0, kept: 0 });
    true
}

fn check_delivered(hub: &FakeHub, child: &Output) {
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    assert_eq!(hub.received_of(Kind::Sync).len(), 1, "{}", hub.transcript());
}

#[test]
fn proxy_is_used() {
    if reported_as_a_child() {
        return;
    }
    let proxy = FakeHub::start();
    let child = report_in_a_child("proxy_is_used", "http://hub.invalid", &[("HTTP_PROXY", &proxy.url())]);
    check_delivered(&proxy, &child);
    let target = &proxy.received()[0].target;
    assert_eq!(target, &format!("http://hub.invalid/v2/{CLIENT_ID}/golden/sync"));
}

#[test]
fn exception_from_the_proxy_is_heeded() {
    if reported_as_a_child() {
        return;
    }
    let (hub, proxy) = (FakeHub::start(), FakeHub::start());
    let variables = [("HTTP_PROXY", proxy.url()), ("NO_PROXY", "127.0.0.1".to_owned())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let child = report_in_a_child("exception_from_the_proxy_is_heeded", &hub.url(), &variables);
    check_delivered(&hub, &child);
    assert_eq!(proxy.received().len(), 0);
}

#[test]
fn certificates_from_a_file_are_trusted() {
    if reported_as_a_child() {
        return;
    }
    let hub = FakeHub::start_tls();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), hub.certificate_pem().unwrap()).unwrap();
    let variables = [("SSL_CERT_FILE", file.path().to_str().unwrap())];
    let child = report_in_a_child("certificates_from_a_file_are_trusted", &hub.url(), &variables);
    check_delivered(&hub, &child);
}
