//! SIGHUP: the agent does as its file says now, and nobody's connection or count pays for it.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use tests::agent::Agent;
use tests::app::{App, Server};
use tests::client::{Address, Request};
use tests::eventually::{eventually, let_pass};
use tests::fake_hub::{FakeHub, Kind, Received};
use tests::machine;
use tests::scratch::Scratch;
use tests::totals::Totals;

const SHOP: &str = "76b5cb91-a0a4-4ea0-a894-57d2b9fcb2c9";
const BLOG: &str = "8b5a1c6e-3d7f-4e0a-9c42-5f1d2e3a4b6c";
const DOCS: &str = "0f3c8a52-6d1b-4c7e-8f90-2b4d6e8a1c35";
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn targets_come_go_and_change_while_requests_flow() {
    let _machine = machine::in_company();
    let (hub, dir) = (FakeHub::start(), Scratch::new("reload"));
    let [shop, blog, docs] = [(); 3].map(|()| App::start(Server::FastApi));
    let file = dir.join("agent.toml");
    let write = |text: &str| fs::write(&file, text).expect("a fresh directory can be written to");
    let common = format!("hub_url = \"{}\"\nsync_interval = \"200ms\"\n", hub.url());
    let target = |spec: String, app: &str, env: &str| {
        format!("[[target]]\n{spec}\nclient_id = \"{app}\"\nenv = \"{env}\"\n")
    };
    let of_shop = |env| target(format!("pid = {}", shop.pid()), SHOP, env);
    let of_blog = target(format!("port = {}", port(&blog)), BLOG, "two");
    let of_docs = target(format!("pid = {}", docs.pid()), DOCS, "four");
    let by = |header: &str| format!("consumers = [{{ header = \"{header}\" }}]\n");

    write(&format!("{common}{}{}{of_blog}", by("X-Old"), of_shop("one")));
    let agent = Agent::configured_by(&file).start();
    eventually("both targets are watched", PATIENCE, || {
        let watching = agent.log().into_iter().filter(|line| line.message() == Some("watching"));
        (watching.count() == 2).then_some(())
    });
    let stop = [const { AtomicBool::new(false) }; 3];
    let sent = thread::scope(|scope| {
        let shop = keep_asking(scope, &shop, &stop[0]);
        let blog_asked = keep_asking(scope, &blog, &stop[1]);
        reported(&hub, SHOP, "one", "old");
        reported(&hub, BLOG, "two", "old");

        // Another consumer, another environment, one target more.
        write(&format!("{common}{}{}{of_blog}{of_docs}", by("X-New"), of_shop("three")));
        assert_eq!(agent.reload().field("targets"), Some(&3.into()));
        let docs = keep_asking(scope, &docs, &stop[2]);
        reported(&hub, SHOP, "three", "new");
        reported(&hub, BLOG, "two", "new");
        reported(&hub, DOCS, "four", "new");

        // Something that is no configuration: all goes on.
        write("[[target]]\nprot = 7\n");
        let error = agent.reload().field("error").and_then(|error| error.as_str().map(str::to_owned));
        let error = error.expect("the error is logged");
        assert!(
            error.ends_with("agent.toml:2:1: unknown key `prot` in [[target]]; did you mean `port`?"),
            "{error}"
        );
        let so_far = count(&hub, DOCS, "four", "new");
        eventually("the counts go on", PATIENCE, || {
            (count(&hub, DOCS, "four", "new") > so_far).then_some(())
        });

        // One target less; what it is asked from then on is nobody's business.
        stop[1].store(true, Ordering::Relaxed);
        let blog_asked = blog_asked.join().expect("the client has its answers");
        write(&format!("{common}{}{}{of_docs}", by("X-New"), of_shop("three")));
        assert_eq!(agent.reload().field("targets"), Some(&2.into()));
        let mut client = blog.client();
        (0..5).for_each(|_| drop(client.send(&request())));
        let_pass(Duration::from_millis(500));
        [0, 2].into_iter().for_each(|other| stop[other].store(true, Ordering::Relaxed));
        let [shop, docs] = [shop, docs].map(|asked| asked.join().expect("the client has its answers"));
        [shop, blog_asked, docs]
    });
    agent.stop();

    let [shop, blog, docs] = sent;
    let [one, three] =
        ["one", "three"].map(|env| ["old", "new"].map(|consumer| count(&hub, SHOP, env, consumer)));
    assert_eq!(one[1], 0, "nobody was called so before");
    // The request that was open when the agent read the file belongs to whom it was given.
    assert!(three[0] <= 1, "{three:?}");
    assert_eq!(one[0] + three[0] + three[1], shop);
    assert_eq!(count(&hub, BLOG, "two", "old") + count(&hub, BLOG, "two", "new"), blog);
    assert_eq!(count(&hub, DOCS, "four", "new"), docs);
    assert_eq!(hub.totals().count(), shop + blog + docs);
    assert_eq!(hub.duplicates(), Vec::<String>::new());
    for (app, env) in [(SHOP, "one"), (SHOP, "three"), (BLOG, "two"), (DOCS, "four")] {
        let startups = hub.received_of(Kind::Startup);
        let paths = |message: &Received| message.body["paths"] != serde_json::json!([]);
        assert!(
            startups.iter().any(|it| it.client_id == app && it.env == env && paths(it)),
            "no start-up message with the routes for {env}"
        );
    }
}

fn request() -> Request {
    Request::get("/items/3").field("X-Old", "old").field("X-New", "new")
}

/// Asks over one connection, which must last, until told to stop; how often.
fn keep_asking<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    app: &'scope App,
    stop: &'scope AtomicBool,
) -> ScopedJoinHandle<'scope, u64> {
    let mut client = app.client();
    scope.spawn(move || {
        client.connect();
        let mut asked = 0;
        while !stop.load(Ordering::Relaxed) {
            assert_eq!(client.send(&request()).exchange.status, 200);
            client.write(&[]).expect("the connection is still open");
            asked += 1;
        }
        asked
    })
}

fn port(app: &App) -> u16 {
    match app.address() {
        Address::Tcp(address) => address.port(),
        Address::Unix(path) => panic!("{} is no port", path.display()),
    }
}

fn reported(hub: &FakeHub, app: &str, env: &str, consumer: &str) {
    hub.eventually(&format!("{consumer} is reported to {env}"), |hub| {
        (count(hub, app, env, consumer) > 0).then_some(())
    });
}

fn count(hub: &FakeHub, app: &str, env: &str, consumer: &str) -> u64 {
    let accepted = hub.accepted();
    let is_its = |it: &&Received| it.kind == Kind::Sync && it.client_id == app && it.env == env;
    let totals = Totals::of_syncs(accepted.iter().filter(is_its).map(|it| &it.body));
    let rows = totals.0.into_iter().filter(|(key, _)| key.consumer.as_deref() == Some(consumer));
    rows.map(|(_, row)| row.count).sum()
}
