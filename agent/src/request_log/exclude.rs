//! Which exchanges are in no log: probes, and what browsers fetch by themselves. They are counted all the same.

use crate::pipeline::{detail::Logged, http::head::Method};

use super::patterns::{List, PatternError, Patterns};

/// Hub protocol, section 11.4; the newer generation's, which take a slash at the end.
const PATHS: [&str; 14] = [
    r"/_?healthz?/?$",
    r"/_?health[-_]?checks?/?$",
    r"/_?heart[-_]?beats?/?$",
    r"/ping/?$",
    r"/ready/?$",
    r"/live/?$",
    r"/favicon(-[\w-]+)?\.(ico|png|svg)$",
    r"/apple-touch-icon(-[\w-]+)?\.png$",
    r"/(robots\.txt|sitemap\.xml)$",
    r"/manifest\.json$",
    r"/site\.webmanifest$",
    r"/service-worker\.js$",
    r"/sw\.js$",
    r"/\.well-known/",
];
const USER_AGENTS: [&str; 4] =
    ["health[-_ ]?check", "microsoft-azure-application-lb", "googlehc", "kube-probe"];

/// Patterns of the user's that are added to the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtraExclusions {
    pub paths: Vec<String>,
    pub user_agents: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Exclusions {
    paths: Patterns,
    user_agents: Patterns,
}

impl Exclusions {
    /// The defaults, and more.
    ///
    /// # Errors
    /// The first pattern that cannot be used.
    pub fn new(extra: &ExtraExclusions) -> Result<Self, PatternError> {
        Ok(Self {
            paths: Patterns::new(List::ExcludePaths, &PATHS, &extra.paths)?,
            user_agents: Patterns::new(List::ExcludeUserAgents, &USER_AGENTS, &extra.user_agents)?,
        })
    }

    /// Whether it is in no log. The route is looked at and the path too: a learned template may have swallowed the word
    /// that the user wrote down.
    pub fn exclude(&self, logged: &Logged) -> bool {
        let user_agent = || String::from_utf8_lossy(logged.request.field("user-agent").unwrap_or_default());
        // One that the hub does not take has no method here.
        logged.method.is_none_or(|method| method == Method::OPTIONS)
            || logged.route.as_deref().is_some_and(|route| self.paths.matches(route))
            || self.paths.matches(path(&logged.target))
            || self.user_agents.matches(&user_agent())
    }
}

/// The path in what a request line asks for, in either of its forms (RFC 9112, section 3.2).
fn path(target: &str) -> &str {
    let target = target.split(['?', '#']).next().unwrap_or_default();
    match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => rest.find('/').map_or("/", |slash| &rest[slash..]),
        _ => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_log::fixtures::logged;

    fn excluded(extra: &ExtraExclusions, request: &str) -> bool {
        Exclusions::new(extra).unwrap().exclude(&logged(request, "HTTP/1.1 200 OK\r\n\r\n"))
    }

    #[test]
    fn probes_and_what_browsers_fetch_are_excluded() {
        let check = |request: &str, want: bool| {
            assert_eq!(excluded(&ExtraExclusions::default(), request), want, "{request:?}");
        };
        let paths = "/healthz /health /_health /api/health-check /healthchecks/ /heartbeat /heart-beats /ping /live /ready/
            /favicon.ico /favicon-32x32.png /apple-touch-icon-precomposed.png /robots.txt /sitemap.xml /manifest.json
            /site.webmanifest /service-worker.js /sw.js /.well-known/acme /HEALTHZ /ping?token=a http://a/ping";
        for path in paths.split_whitespace() {
            check(&format!("GET {path} HTTP/1.1\r\n\r\n"), true);
        }
        for path in
            ["/healthy", "/pinging", "/ping/7", "/items", "/x?next=/ping", "/alive", "/robots.txt.bak"]
        {
            check(&format!("GET {path} HTTP/1.1\r\n\r\n"), false);
        }
        for agent in
            ["kube-probe/1.29", "GoogleHC/1.0", "Health Check", "Microsoft-Azure-Application-LB/AGENT"]
        {
            check(&format!("GET / HTTP/1.1\r\nUser-Agent: {agent}\r\n\r\n"), true);
        }
        check("GET / HTTP/1.1\r\nUser-Agent: curl/8\r\n\r\n", false);
        check("OPTIONS /items HTTP/1.1\r\n\r\n", true);
        check("G@T /items HTTP/1.1\r\n\r\n", true);
    }

    #[test]
    fn the_user_may_exclude_more() {
        let list = |pattern: &str| vec![pattern.to_owned()];
        let extra = ExtraExclusions { paths: list("^/internal/"), user_agents: list("^curl/") };
        assert!(excluded(&extra, "GET /internal/x HTTP/1.1\r\n\r\n"));
        assert!(excluded(&extra, "GET /x HTTP/1.1\r\nUser-Agent: curl/8\r\n\r\n"));
        assert!(excluded(&extra, "GET /ping HTTP/1.1\r\n\r\n"));
        assert!(!excluded(&extra, "GET /x/internal/ HTTP/1.1\r\n\r\n"));
    }

    #[test]
    fn route_and_path_both_count() {
        let exclusions = Exclusions::new(&ExtraExclusions::default()).unwrap();
        let mut exchange = logged("GET /v7/ping HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n");
        exchange.route = Some("/{version}/{name}".to_owned());
        assert!(exclusions.exclude(&exchange));
        let mut exchange = logged("GET /v7/x HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n");
        exchange.route = Some("/{version}/ping".to_owned());
        assert!(exclusions.exclude(&exchange));
    }
}
