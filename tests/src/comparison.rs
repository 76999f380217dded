//! What two reporters said about the same traffic, laid side by side.

mod histograms;

use std::collections::{BTreeMap, BTreeSet};
use std::{fmt, fs};

use serde_json::Value;

use crate::app::workspace;
use crate::fake_hub::{FakeHub, Kind};
use crate::totals::{Key, Row, Totals, within_one_bin};

pub use histograms::Histograms;

/// Everything that one reporter said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    rows: Totals,
    /// Validation errors and server errors by their row, as far as it is known, and what they say.
    errors: BTreeMap<(String, String), u64>,
    /// Name and group by identifier.
    consumers: BTreeMap<String, (Option<String>, Option<String>)>,
    paths: BTreeSet<String>,
    /// Summary and description by path, of those that have any.
    summaries: BTreeMap<String, (String, String)>,
    openapi: Option<Value>,
    client: String,
    versions: BTreeMap<String, String>,
    /// Where a parameter of a route is `:id`, not `{id}`.
    colons: bool,
}

/// One thing that two reports say in different ways. The texts are for people, and for the list that they keep.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// What it is about: a row, a consumer, the start-up message.
    pub subject: String,
    pub what: String,
    pub official: String,
    pub agent: String,
}

const NONE: &str = "none";
/// Texts longer than this are cut; they are not made to be read.
const SHOWN: usize = 60;

impl Report {
    /// Everything that a hub accepted.
    pub fn to(hub: &FakeHub) -> Self {
        let mut report = Self::default();
        for message in hub.accepted() {
            match message.kind {
                Kind::Startup => report.add_startup(&message.body),
                Kind::Sync => report.add_sync(&message.body),
                _ => {}
            }
        }
        report
    }

    /// Later ones are complete, so they replace earlier ones.
    fn add_startup(&mut self, body: &Value) {
        self.paths.clear();
        self.summaries.clear();
        for path in body["paths"].as_array().into_iter().flatten() {
            let method = text(path, "method").to_ascii_uppercase();
            let named = format!("{method} {}", in_braces(&text(path, "path"), &mut self.colons));
            let about = (text(path, "summary"), text(path, "description"));
            if about != Default::default() {
                self.summaries.insert(named.clone(), about);
            }
            self.paths.insert(named);
        }
        let document = body["openapi"].as_str();
        self.openapi = document.map(|text| serde_json::from_str(text).expect("the document is JSON"));
        self.client = text(body, "client");
        let versions = body["versions"].as_object().into_iter().flatten();
        self.versions = versions
            .map(|(name, version)| (name.clone(), version.as_str().unwrap_or_default().to_owned()))
            .collect();
    }

    fn add_sync(&mut self, body: &Value) {
        for (key, row) in Totals::of_syncs([body]).0 {
            let key = Key { route: in_braces(&key.route, &mut self.colons), ..key };
            self.rows.0.entry(key).or_default().add(&row);
        }
        for consumer in body["consumers"].as_array().into_iter().flatten() {
            let part = |name: &str| consumer[name].as_str().map(cut);
            self.consumers.insert(cut(&text(consumer, "identifier")), (part("name"), part("group")));
        }
        for (list, name) in [("validation_errors", "validation error"), ("server_errors", "server error")] {
            for error in body[list].as_array().into_iter().flatten() {
                let by = error["consumer"]
                    .as_str()
                    .map(|consumer| format!(" by {}", cut(consumer)))
                    .unwrap_or_default();
                let route = in_braces(&text(error, "path"), &mut self.colons);
                let place: Vec<&str> =
                    error["loc"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let said = [name, &place.join("."), &text(error, "type"), &text(error, "msg")].map(cut);
                let said: Vec<String> = said.into_iter().filter(|part| !part.is_empty()).collect();
                let count = error["error_count"].as_u64().expect("errors are counted");
                let subject = format!("{} {route}{by}", text(error, "method"));
                *self.errors.entry((subject, said.join(" "))).or_default() += count;
            }
        }
    }
}

/// Everything that the two do not have in common, in order.
pub fn differences(official: &Report, agent: &Report) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut compare = |subject: &dyn fmt::Display, what: &str, official: String, agent: String| {
        if official != agent {
            let subject = subject.to_string();
            found.push(Difference { subject, what: what.to_owned(), official, agent });
        }
    };
    let keys: BTreeSet<&Key> = official.rows.0.keys().chain(agent.rows.0.keys()).collect();
    for key in keys {
        let named = Key { consumer: key.consumer.as_deref().map(cut), ..key.clone() };
        let (Some(ours), Some(theirs)) = (official.rows.0.get(key), agent.rows.0.get(key)) else {
            let requests = |row: Option<&Row>| row.map_or(NONE.to_owned(), |row| row.count.to_string());
            compare(&named, "requests", requests(official.rows.0.get(key)), requests(agent.rows.0.get(key)));
            continue;
        };
        compare(&named, "requests", ours.count.to_string(), theirs.count.to_string());
        if ours.count != theirs.count {
            // Nothing else can be the same.
            continue;
        }
        let request_sizes = |row: &Row| sizes(&row.request_sizes, row.request_size_sum, row.count);
        compare(&named, "request size", request_sizes(ours), request_sizes(theirs));
        let response_sizes = |row: &Row| sizes(&row.response_sizes, row.response_size_sum, row.count);
        compare(&named, "response size", response_sizes(ours), response_sizes(theirs));
        if !within_one_bin(&ours.response_times, &theirs.response_times) {
            compare(&named, "response time", bins(&ours.response_times), bins(&theirs.response_times));
        }
    }
    let errors: BTreeSet<_> = official.errors.keys().chain(agent.errors.keys()).collect();
    for (subject, error) in errors {
        let key = (subject.clone(), error.clone());
        let count = |report: &Report| report.errors.get(&key).map_or(NONE.to_owned(), u64::to_string);
        compare(subject, error, count(official), count(agent));
    }
    let consumers: BTreeSet<_> = official.consumers.keys().chain(agent.consumers.keys()).collect();
    for identifier in consumers {
        let named = |report: &Report| {
            let Some((name, group)) = report.consumers.get(identifier) else { return NONE.to_owned() };
            let part = |part: &Option<String>| part.clone().unwrap_or_else(|| NONE.to_owned());
            format!("{}, {}", part(name), part(group))
        };
        compare(&format!("consumer {identifier}"), "name and group", named(official), named(agent));
    }
    let colons = |report: &Report| if report.colons { "/:id" } else { "/{id}" }.to_owned();
    compare(&"routes", "notation", colons(official), colons(agent));
    let paths: BTreeSet<_> = official.paths.iter().chain(&agent.paths).collect();
    for path in paths {
        let listed = |report: &Report| if report.paths.contains(path) { "listed" } else { NONE }.to_owned();
        compare(&"start-up", path, listed(official), listed(agent));
    }
    let described = |report: &Report| match report.summaries.len() {
        0 => NONE.to_owned(),
        routes => format!("of {routes} routes"),
    };
    let (ours, theirs) = (described(official), described(agent));
    let theirs = told_apart(&ours, theirs, official.summaries == agent.summaries);
    compare(&"start-up", "summaries and descriptions", ours, theirs);
    let document = |report: &Report| match &report.openapi {
        None => NONE.to_owned(),
        Some(document) => format!("{} paths", document["paths"].as_object().map_or(0, serde_json::Map::len)),
    };
    let (ours, theirs) = (document(official), document(agent));
    let theirs = told_apart(&ours, theirs, official.openapi == agent.openapi);
    compare(&"start-up", "OpenAPI document", ours, theirs);
    compare(&"start-up", "client", official.client.clone(), agent.client.clone());
    let components: BTreeSet<_> = official.versions.keys().chain(agent.versions.keys()).collect();
    for name in components {
        let version = |report: &Report| report.versions.get(name).cloned().unwrap_or_else(|| NONE.to_owned());
        compare(&"start-up", &format!("version of {name}"), version(official), version(agent));
    }
    found.sort();
    found
}

/// The table of differences in `docs/what-it-sees.md` under a heading, in order.
///
/// # Panics
/// When there is no such heading, or a line of its table gives no reason.
pub fn listed(heading: &str) -> Vec<Difference> {
    let path = workspace().join(LIST);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, section) = text
        .split_once(&format!("\n### {heading}\n"))
        .unwrap_or_else(|| panic!("{LIST} has no heading {heading:?}"));
    let lines =
        section.lines().take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with("| `"));
    let mut listed: Vec<Difference> = lines.map(Difference::of_line).collect();
    listed.sort();
    listed
}

/// What was found is what is listed under a heading.
///
/// # Panics
/// With what is not, as lines for the table.
pub fn assert_listed(heading: &str, listed: &[Difference], found: &[Difference]) {
    let only_in = |these: &[Difference], those: &[Difference]| -> String {
        these
            .iter()
            .filter(|difference| !those.contains(difference))
            .map(|difference| format!("{difference}\n"))
            .collect()
    };
    let (gone, new) = (only_in(listed, found), only_in(found, listed));
    assert!(
        gone.is_empty() && new.is_empty(),
        "{LIST}, {heading}\nlisted, and no difference any more:\n{gone}differences that are not listed:\n{new}"
    );
}

const LIST: &str = "docs/what-it-sees.md";

impl Difference {
    fn of_line(line: &str) -> Self {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let &[subject, what, official, agent, reason] = &cells[..] else {
            panic!("a difference has five cells: {line}");
        };
        assert!(!reason.is_empty(), "a difference needs its reason: {line}");
        let [subject, what, official, agent] =
            [subject, what, official, agent].map(|cell| cell.replace('`', ""));
        Self { subject, what, official, agent }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| `{}` | {} | {} | {} | |", self.subject, self.what, self.official, self.agent)
    }
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// The first characters, and how many there are of them when that is too many.
fn cut(text: &str) -> String {
    let length = text.chars().count();
    if length <= SHOWN {
        return text.to_owned();
    }
    format!("{}.. ({length} characters)", text.chars().take(8).collect::<String>())
}

/// The second of two short forms, marked where they are alike and what they stand for is not.
fn told_apart(ours: &str, theirs: String, are_same: bool) -> String {
    if ours == theirs && !are_same { format!("{theirs}, others") } else { theirs }
}

/// A route as FastAPI and Django write it.
fn in_braces(route: &str, colons: &mut bool) -> String {
    let segments = route.split('/').map(|segment| match segment.strip_prefix(':') {
        Some(name) => {
            *colons = true;
            format!("{{{name}}}")
        }
        None => segment.to_owned(),
    });
    segments.collect::<Vec<_>>().join("/")
}

/// How large bodies were: their sum, of how many it is known, and the histogram.
fn sizes(histogram: &BTreeMap<u64, u64>, sum: u64, requests: u64) -> String {
    let known: u64 = histogram.values().sum();
    match (known, requests) {
        (0, _) => "unknown".to_owned(),
        (1, 1) => format!("{sum} B"),
        _ => format!("{sum} B of {known}, kB {}", bins(histogram)),
    }
}

fn bins(histogram: &BTreeMap<u64, u64>) -> String {
    histogram.iter().map(|(bin, count)| format!("{bin}:{count}")).collect::<Vec<_>>().join(" ")
}
