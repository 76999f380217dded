//! What the agent may cost: the time to attach, records per byte, CPU and memory when nothing happens.

use std::time::Duration;

use tests::agent::Agent;
use tests::app::{App, SPARSE_FILE, Server};
use tests::client::Request;
use tests::eventually::let_pass;
use tests::fake_hub::FakeHub;
use tests::machine;
use tests::totals::{Totals, assert_same};

const ATTACH: Duration = Duration::from_millis(300);
const RECORDS_PER_DOWNLOAD: u64 = 100;
const IDLE_SPAN: Duration = Duration::from_secs(10);
/// A machine that is slow for a while (one whose host is busy) shows in some spans; an agent that works when idle
/// shows in all.
const IDLE_SPANS: u32 = 5;
/// 0.2 % of a core.
const IDLE_CPU: Duration = Duration::from_millis(20);
/// 17 MB of it are the ring buffer, which is mapped twice, and 11 MB the program in this build.
const RESIDENT_BYTES: u64 = 40_000_000;

#[test]
fn agent_watches_within_300_ms() {
    let _machine = machine::alone();
    let app = App::start(Server::Ninja);
    let agent = Agent::watching(app.pid()).start();
    let took = agent.watching_after();
    agent.stop();
    assert!(took < ATTACH, "{took:?} from the start to the first line that says so");
}

#[test]
fn gigabyte_by_sendfile_takes_few_records() {
    check_gigabyte(Server::Nginx, SPARSE_FILE.0);
}

#[test]
fn gigabyte_from_uvicorn_takes_few_records() {
    check_gigabyte(Server::FastApi, "/sized-stream/1073741824");
}

#[test]
fn gigabyte_from_node_takes_few_records() {
    check_gigabyte(Server::Express, "/sized-stream/1073741824");
}

fn check_gigabyte(server: Server, path: &str) {
    let _machine = machine::alone();
    let (app, hub) = (App::start(server), FakeHub::start());
    let agent = Agent::watching(app.pid()).reporting_to(&hub).start();
    let exchange = app.client().send(&Request::get(path)).exchange;
    let stopped = agent.stop();
    assert_eq!((exchange.status, exchange.response_size), (200, 1 << 30));
    assert_same(&Totals::of([&exchange]).untimed(|_| true), &hub.totals().untimed(|_| true));
    let tap = stopped.tap();
    assert!(tap.get("records") > 0, "{tap}");
    assert!(tap.get("records") < RECORDS_PER_DOWNLOAD, "{tap}");
}

#[test]
fn idle_agent_takes_little_cpu_and_memory() {
    let _machine = machine::alone();
    let (app, hub) = (App::start(Server::Ninja), FakeHub::start());
    let agent = Agent::watching(app.pid()).reporting_to(&hub).on_the_usual_schedule().start();
    let mut client = app.client();
    for _ in 0..100 {
        client.send(&Request::get("/items/1"));
    }
    // What attaching and these requests leave to do is not idleness.
    let_pass(Duration::from_secs(1));
    let mut cpu = Duration::MAX;
    for _ in 0..IDLE_SPANS {
        let before = agent.cpu_time();
        let_pass(IDLE_SPAN);
        cpu = cpu.min(agent.cpu_time() - before);
        if cpu < IDLE_CPU {
            break;
        }
    }
    let memory = agent.resident_bytes();
    agent.stop();
    println!("idle for {IDLE_SPAN:?}: {cpu:?} of CPU, {memory} bytes resident");
    assert!(cpu < IDLE_CPU, "{cpu:?} of CPU in {IDLE_SPAN:?}");
    assert!(memory < RESIDENT_BYTES, "{memory} bytes resident");
}
