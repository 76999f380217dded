//! Every server of the table is counted exactly: over TCP, and over Unix sockets where it listens on those.

use tests::agent::Agent;
use tests::app::{App, SERVERS, Server};
use tests::machine;
use tests::matrix::{self, Extent};
use tests::totals::{Totals, assert_same};

use Socket::{Tcp, Unix};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Socket {
    Tcp,
    Unix,
}

const RING_BYTES: &str = "67108864";

/// A test for each server and kind of socket, and the list of them.
macro_rules! rows {
    ($($test:ident: $server:ident $socket:ident;)*) => {
        $(
            #[test]
            fn $test() {
                check(Server::$server, $socket);
            }
        )*

        const TESTED: &[(Server, Socket)] = &[$((Server::$server, $socket)),*];
    };
}

rows! {
    gunicorn_with_threads_on_tcp: Ninja Tcp;
    gunicorn_with_threads_on_unix: Ninja Unix;
    gunicorn_sync_on_tcp: GunicornSync Tcp;
    gunicorn_sync_on_unix: GunicornSync Unix;
    uvicorn_on_tcp: FastApi Tcp;
    uvicorn_on_unix: FastApi Unix;
    uvicorn_with_workers_on_tcp: UvicornWorkers Tcp;
    uvicorn_with_workers_on_unix: UvicornWorkers Unix;
    hypercorn_on_tcp: Hypercorn Tcp;
    hypercorn_on_unix: Hypercorn Unix;
    daphne_on_tcp: Daphne Tcp;
    daphne_on_unix: Daphne Unix;
    waitress_on_tcp: Waitress Tcp;
    waitress_on_unix: Waitress Unix;
    uwsgi_http_socket_on_tcp: UwsgiHttp Tcp;
    uwsgi_http_socket_on_unix: UwsgiHttp Unix;
    uwsgi_http11_socket_on_tcp: UwsgiHttp11 Tcp;
    uwsgi_http11_socket_on_unix: UwsgiHttp11 Unix;
    uwsgi_router_on_tcp: UwsgiRouter Tcp;
    uwsgi_router_on_unix: UwsgiRouter Unix;
    node_http_on_tcp: NodeHttp Tcp;
    node_http_on_unix: NodeHttp Unix;
    node_cluster_on_tcp: NodeCluster Tcp;
    node_cluster_on_unix: NodeCluster Unix;
    express_on_tcp: Express Tcp;
    express_on_unix: Express Unix;
    fastify_on_tcp: Fastify Tcp;
    fastify_on_unix: Fastify Unix;
    nginx_on_tcp: Nginx Tcp;
    nginx_on_unix: Nginx Unix;
    apache_on_tcp: Apache Tcp;
    apache_with_php_on_tcp: ApachePhp Tcp;
    php_on_tcp: Php Tcp;
    caddy_on_tcp: Caddy Tcp;
    caddy_on_unix: Caddy Unix;
    haproxy_on_tcp: Haproxy Tcp;
    haproxy_on_unix: Haproxy Unix;
    go_on_tcp: Go Tcp;
    go_on_unix: Go Unix;
    jdk_on_tcp: Jdk Tcp;
    tomcat_on_tcp: Tomcat Tcp;
    tomcat_on_unix: Tomcat Unix;
    puma_on_tcp: Puma Tcp;
    puma_on_unix: Puma Unix;
    axum_on_tcp: Axum Tcp;
    axum_on_unix: Axum Unix;
}

#[test]
fn each_row_of_the_table_has_its_tests() {
    for row in &SERVERS {
        assert!(TESTED.contains(&(row.server, Tcp)), "{} has no test on TCP", row.name);
        assert_eq!(TESTED.contains(&(row.server, Unix)), row.on_unix_sockets, "{} on Unix sockets", row.name);
    }
}

/// What goes through a proxy is counted once for whoever is watched: the proxy's own connections are not served by it.
#[test]
fn app_behind_haproxy() {
    let _machine = machine::in_company();
    let proxy = App::start(Server::Haproxy);
    check_watching(&proxy, Server::Haproxy, proxy.behind().expect("haproxy is before an app"));
}

fn check(server: Server, socket: Socket) {
    let _machine = machine::in_company();
    let app = App::of(server);
    let app = if socket == Unix { app.on_unix_socket().start() } else { app.start() };
    check_watching(&app, server, &app);
}

/// Sends to `app`, and watches `watched`.
fn check_watching(app: &App, server: Server, watched: &App) {
    let row = server.row();
    eprintln!("{}: {} {}", row.name, row.run_as, row.version());
    // On a machine that others use too the agent may get its turn late; what is lost then is no server's doing.
    let agent = Agent::watching(watched.pid()).arg("--ring-bytes").arg(RING_BYTES).start();
    let account = matrix::drive(app, row, Extent::Full);
    let stopped = agent.stop();

    let truth = Totals::of(&account.exchanges);
    assert_same(&truth.untimed(|_| true), &stopped.totals().untimed(|_| true));
    let ledger = stopped.ledger();
    assert_eq!(ledger.seen(), account.sent(), "{ledger}");
    assert_eq!(ledger.get("reported"), account.exchanges.len() as u64, "{ledger}");
    assert_eq!(ledger.get("unmatched"), account.unmatched, "{ledger}");
    assert_eq!(ledger.get("excluded"), account.excluded, "{ledger}");
    // The kernel's counters say that no other calls than those we know moved bytes.
    assert_eq!(stopped.given_up().get("unseen_bytes"), 0, "{}", stopped.given_up());
}
