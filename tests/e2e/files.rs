//! Files that the configuration names: what changes in them counts without a restart, and what is wrong in them does not.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::{Agent, CLIENT_ID};
use tests::app::{App, Server};
use tests::client::Request;
use tests::eventually::eventually;
use tests::fake_hub::{FakeHub, Kind};
use tests::machine;
use tests::scratch::Scratch;

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_changed_openapi_document_is_followed() {
    let _machine = machine::in_company();
    let (hub, dir, app) = (FakeHub::start(), Scratch::new("document"), App::start(Server::FastApi));
    let document = dir.join("openapi.json");
    let declare = |path: &str| {
        let operation = json!({"responses": {"200": {"description": "there it is"}}});
        let paths = json!({path: {"get": operation}});
        let text =
            json!({"openapi": "3.1.0", "info": {"title": "a", "version": "1"}, "paths": paths}).to_string();
        replace(&document, &text);
    };
    declare("/items/{before}");
    let agent = configured(&hub, &dir, &app, "openapi = \"openapi.json\"\n");
    let mut client = app.client();
    let mut sent = 0;
    let mut ask = |client: &mut tests::client::Client| {
        assert_eq!(client.send(&Request::get("/items/3")).exchange.status, 200);
        sent += 1;
    };
    ask(&mut client);
    hub.eventually_counts("GET", "/items/{before}", 200, 1);

    // In the middle of being written, or simply wrong: the last one stands.
    replace(&document, "{\"openapi\": \"3.1.0\", \"paths\":");
    said(&agent, "OpenAPI document cannot be used, keeping the last one");
    ask(&mut client);
    hub.eventually_counts("GET", "/items/{before}", 200, 2);

    declare("/items/{after}");
    hub.eventually("the new route is reported", |hub| {
        ask(&mut client);
        (hub.counted("GET", "/items/{after}", 200) > 0).then_some(())
    });
    agent.stop();
    let counted = ["/items/{before}", "/items/{after}"].map(|route| hub.counted("GET", route, 200));
    assert_eq!(counted.iter().sum::<u64>(), sent, "{counted:?}");
    let startups = hub.received_of(Kind::Startup);
    let (first, last) = (startups.first().expect("there is a first"), startups.last().expect("and a last"));
    let has = |body: &Value, path: &str| {
        let paths = body["paths"].as_array().expect("a list of paths");
        paths.iter().any(|it| it["path"] == path)
            && body["openapi"].as_str().is_some_and(|it| it.contains(path))
    };
    assert!(has(&first.body, "/items/{before}") && !has(&first.body, "/items/{after}"), "{}", first.body);
    assert!(has(&last.body, "/items/{after}") && !has(&last.body, "/items/{before}"), "{}", last.body);
}

#[test]
fn changed_names_of_consumers_are_followed() {
    let _machine = machine::in_company();
    let (hub, dir, app) = (FakeHub::start(), Scratch::new("names"), App::start(Server::FastApi));
    let names = dir.join("names.csv");
    let call = |name: &str, group: &str| {
        replace(&names, &format!("identifier,name,group\nkey-alice,{name},{group}\n"));
    };
    call("Alice", "Users");
    let keys = "consumers = [{ header = \"X-Who\" }]\nconsumer_file = \"names.csv\"\n";
    let agent = configured(&hub, &dir, &app, keys);
    let (mut client, request) = (app.client(), Request::get("/items/3").field("X-Who", "key-alice"));
    let mut until_called = |name: &str, group: &str| {
        let want = json!({"identifier": "key-alice", "name": name, "group": group});
        hub.eventually(&format!("the hub is told of {want}"), |_| {
            assert_eq!(client.send(&request).exchange.status, 200);
            (last_consumer(&hub).as_ref() == Some(&want)).then_some(())
        });
    };
    until_called("Alice", "Users");

    replace(&names, "who,name,group\nkey-alice,Alice Liddell,Admins\n");
    said(&agent, "names of consumers cannot be read again, the last ones stand");
    call("Alice Liddell", "Admins");
    until_called("Alice Liddell", "Admins");
    agent.stop();
    let consumers = hub.totals().0.into_keys().map(|key| key.consumer);
    assert!(consumers.into_iter().all(|consumer| consumer.as_deref() == Some("key-alice")));
}

/// An agent that reports as its file in `dir` says, with these keys.
fn configured(hub: &FakeHub, dir: &Path, app: &App, keys: &str) -> Agent {
    let file = dir.join("agent.toml");
    let (url, pid) = (hub.url(), app.pid());
    let text = format!(
        "hub_url = \"{url}\"\nsync_interval = \"200ms\"\nclient_id = \"{CLIENT_ID}\"\n{keys}[[target]]\npid = {pid}\n"
    );
    fs::write(&file, text).expect("a fresh directory can be written to");
    Agent::configured_by(&file).start()
}

/// As editors and deployments do it: nobody ever sees a part of the new file.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).expect("our directory can be written to");
}

fn said(agent: &Agent, message: &str) {
    eventually(&format!("the log says {message:?}"), PATIENCE, || {
        agent.log().iter().any(|line| line.message() == Some(message)).then_some(())
    });
}

/// What the hub was told of a consumer most recently.
fn last_consumer(hub: &FakeHub) -> Option<Value> {
    let syncs = hub.received_of(Kind::Sync);
    syncs.iter().rev().find_map(|message| message.body["consumers"].as_array()?.last().cloned())
}
