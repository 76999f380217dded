//! What the hub was told, for people: a table, an account, and a message as it went over the wire.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::IsTerminal;

use ::tests::client::Exchange;
use ::tests::fake_hub::{FakeHub, Kind};
use ::tests::totals::Totals;
use serde_json::Value;

use crate::agent::Ledger;

pub(crate) struct Report<'a> {
    totals: Totals,
    ledger: &'a Ledger,
    /// Names of consumers are what the agent sent; the message with the most rows stands for all.
    fullest_sync: Option<Value>,
    colours: bool,
}

/// One line of the table: a route as one consumer used it.
#[derive(Default)]
struct Line {
    requests: u64,
    errors: u64,
    error_statuses: BTreeSet<u16>,
    times: BTreeMap<u64, u64>,
    request_bytes: u64,
    sized_requests: u64,
    response_bytes: u64,
    sized_responses: u64,
}

const NOBODY: &str = "-";
const TIME_BIN_MS: u64 = 10;
/// The agent's words for why a request is in no row; README.md explains them.
const CAUSES: [&str; 16] = [
    "lost_ring_full",
    "lost_gap",
    "unreadable_head",
    "incomplete_head",
    "unmatched",
    "excluded",
    "bad_method",
    "path_too_long",
    "over_route_limit",
    "over_count_limit",
    "aborted_before_response",
    "upgraded",
    "evicted_open",
    "open_at_exit",
    "sampled_out",
    "agent_killed",
];
/// Rows of `requests` to show in the message.
const ROWS_SHOWN: usize = 2;

impl<'a> Report<'a> {
    pub(crate) fn new(hub: &FakeHub, ledger: &'a Ledger) -> Self {
        let syncs = hub.received_of(Kind::Sync).into_iter().map(|message| message.body);
        let fullest_sync = syncs.max_by_key(|body| body["requests"].as_array().map_or(0, Vec::len));
        Self { totals: hub.totals(), ledger, fullest_sync, colours: std::io::stdout().is_terminal() }
    }

    pub(crate) fn table(&self) -> String {
        let mut lines: BTreeMap<(&str, &str, Option<&str>), Line> = BTreeMap::new();
        for (key, row) in &self.totals.0 {
            let line = lines.entry((&key.route, &key.method, key.consumer.as_deref())).or_default();
            line.requests += row.count;
            if key.status >= 400 {
                line.errors += row.count;
                line.error_statuses.insert(key.status);
            }
            for (bin, count) in &row.response_times {
                *line.times.entry(*bin).or_default() += count;
            }
            line.request_bytes += row.request_size_sum;
            line.sized_requests += row.request_sizes.values().sum::<u64>();
            line.response_bytes += row.response_size_sum;
            line.sized_responses += row.response_sizes.values().sum::<u64>();
        }
        if lines.is_empty() {
            return "The hub was told of no requests.\n".to_owned();
        }
        let mut rows = vec![
            ["route", "consumer", "requests", "errors", "", "p50", "p95", "avg request", "avg response"]
                .map(str::to_owned),
        ];
        for ((route, method, consumer), line) in &lines {
            let statuses = line.error_statuses.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
            rows.push([
                format!("{method:<6} {route}"),
                consumer.unwrap_or(NOBODY).to_owned(),
                line.requests.to_string(),
                if line.errors > 0 { line.errors.to_string() } else { String::new() },
                statuses,
                percentile(&line.times, 50),
                percentile(&line.times, 95),
                average(line.request_bytes, line.sized_requests),
                average(line.response_bytes, line.sized_responses),
            ]);
        }
        let mut text = self.bold("What the hub was told") + "\n\n";
        text += &self.aligned(&rows);
        text
    }

    /// Columns as wide as their widest cell; numbers to the right.
    fn aligned<const N: usize>(&self, rows: &[[String; N]]) -> String {
        const TO_THE_LEFT: [&str; 3] = ["route", "consumer", ""];
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; N] = std::array::from_fn(width);
        let mut text = String::new();
        for (index, row) in rows.iter().enumerate() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                let cell = if TO_THE_LEFT.contains(&rows[0][column].as_str()) {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                };
                // The errors stand out, the header steps back.
                let cell = match (index, column) {
                    (0, _) => self.dim(&cell),
                    (_, 3 | 4) => self.red(&cell),
                    _ => cell,
                };
                line += if column == 4 { " " } else { "  " };
                line += &cell;
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    /// Next to what the clients know; and whether nothing is missing and nothing was made up.
    pub(crate) fn accounting(&self, sent: &[Exchange]) -> (String, bool) {
        let reported = self.totals.count();
        let requests = sent.len() as u64;
        let lost = self.ledger.get("lost").copied().unwrap_or(0);
        let differences = self.differences(sent);
        let all_found = reported + lost == requests && differences.is_empty();

        let mut text = self.bold("Accounting") + "\n\n";
        let _ = writeln!(text, "  sent by the clients  {requests:>8}");
        let _ = writeln!(text, "  told to the hub      {reported:>8}");
        let _ = writeln!(text, "  in the ledger        {lost:>8}   {}", self.causes());
        if all_found {
            let verdict =
                "every request is accounted for; statuses and sizes are the clients' own, to the byte";
            let _ = writeln!(text, "  {}", self.green(verdict));
        } else {
            let accounted = reported + lost;
            let verdict = match accounted.cmp(&requests) {
                Ordering::Less => format!("{} requests are not accounted for", requests - accounted),
                Ordering::Greater => format!("{} requests were never sent", accounted - requests),
                Ordering::Equal => "the sum is right, the rows are not".to_owned(),
            };
            let _ = writeln!(text, "  {}", self.red(&verdict));
            differences.iter().for_each(|difference| text += &format!("  {difference}\n"));
        }
        (text, all_found)
    }

    /// Rows of the hub's that are not the clients'. Whom a request came from is left out: the agent sends a hash
    /// of an API key. Rows that are not there at all are the ledger's matter.
    fn differences(&self, sent: &[Exchange]) -> Vec<String> {
        type Sums = (u64, u64, u64);
        let mut truth: BTreeMap<(&str, &str, u16), Sums> = BTreeMap::new();
        for exchange in sent {
            let sums = truth.entry((exchange.method, &exchange.route, exchange.status)).or_default();
            sums.0 += 1;
            sums.1 += exchange.request_size.unwrap_or(0);
            sums.2 += exchange.response_size;
        }
        let mut told: BTreeMap<(&str, &str, u16), Sums> = BTreeMap::new();
        for (key, row) in &self.totals.0 {
            let sums = told.entry((&key.method, &key.route, key.status)).or_default();
            sums.0 += row.count;
            sums.1 += row.request_size_sum;
            sums.2 += row.response_size_sum;
        }
        let differ = told.iter().filter(|(key, sums)| truth.get(*key) != Some(sums));
        let describe = |((method, route, status), told): (&(&str, &str, u16), &Sums)| {
            let truth = truth.get(&(*method, *route, *status)).copied().unwrap_or_default();
            format!(
                "{method} {route} {status}: clients {} requests, {} and {} bytes; hub {}, {} and {}",
                truth.0, truth.1, truth.2, told.0, told.1, told.2
            )
        };
        differ.map(describe).collect()
    }

    pub(crate) fn ledger_line(&self) -> String {
        let reported = self.totals.count();
        let lost = self.ledger.get("lost").copied().unwrap_or(0);
        let mut text = self.bold("Accounting") + "\n\n";
        let _ = writeln!(text, "  told to the hub  {reported:>8}");
        let _ = writeln!(text, "  in the ledger    {lost:>8}   {}", self.causes());
        text
    }

    /// Why what is in the ledger is not in the table.
    fn causes(&self) -> String {
        let causes =
            CAUSES.iter().filter_map(|name| Some((name, self.ledger.get(*name).filter(|n| **n > 0)?)));
        let causes = causes.map(|(name, count)| format!("{} {count}", name.replace('_', " ")));
        causes.collect::<Vec<_>>().join(", ")
    }

    /// A real message, with most of its rows left out.
    pub(crate) fn message(&self) -> String {
        let Some(mut body) = self.fullest_sync.clone() else { return String::new() };
        let mut left_out = 0;
        if let Some(rows) = body["requests"].as_array_mut() {
            rows.sort_by_key(|row| std::cmp::Reverse(row["request_count"].as_u64()));
            left_out = rows.len().saturating_sub(ROWS_SHOWN);
            rows.truncate(ROWS_SHOWN);
        }
        let mut text = self.bold("What would be sent to Apitally") + "\n\n";
        let _ = writeln!(text, "  POST https://hub.apitally.io/v2/{{client-id}}/demo/sync\n");
        let pretty = serde_json::to_string_pretty(&body).expect("a Value is JSON");
        for line in with_short_maps_on_one_line(&pretty).lines() {
            let _ = writeln!(text, "  {line}");
        }
        if left_out > 0 {
            let _ = writeln!(text, "\n  {}", self.dim(&format!("(and {left_out} more rows in `requests`)")));
        }
        text
    }

    fn bold(&self, text: &str) -> String {
        self.coloured("1", text)
    }

    fn dim(&self, text: &str) -> String {
        self.coloured("2", text)
    }

    fn red(&self, text: &str) -> String {
        self.coloured("31", text)
    }

    fn green(&self, text: &str) -> String {
        self.coloured("32", text)
    }

    fn coloured(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

pub(crate) fn next_steps(pid: Option<u32>) -> String {
    let pid = pid.map_or_else(|| "<pid>".to_owned(), |pid| pid.to_string());
    let mut text = String::from("Your own process, as root\n\n");
    if pid == "<pid>" {
        text += "  without an account:  cargo xtask demo --pid <pid>\n";
    }
    text += &format!(
        "  with one:            target/release/apitally-agent --pid {pid} --client-id <uuid> --env prod\n"
    );
    text
}

/// The bin in which the n-th percentile lies: all that is known of a time is its bin of 10 ms.
fn percentile(times: &BTreeMap<u64, u64>, percent: u64) -> String {
    let total: u64 = times.values().sum();
    let rank = (total * percent).div_ceil(100).max(1);
    let mut so_far = 0;
    let bin = times.iter().find_map(|(bin, count)| {
        so_far += count;
        (so_far >= rank).then_some(*bin)
    });
    match bin {
        None => String::new(),
        Some(0) => format!("<{TIME_BIN_MS} ms"),
        Some(bin) => format!("{bin}-{} ms", bin + TIME_BIN_MS),
    }
}

/// Over the bodies whose size is known; a dash where there is none.
fn average(bytes: u64, bodies: u64) -> String {
    match bytes.checked_div(bodies) {
        None => "-".to_owned(),
        Some(bytes @ 0..1000) => format!("{bytes} B"),
        Some(bytes @ 1000..1_000_000) => format!("{:.1} kB", bytes as f64 / 1e3),
        Some(bytes @ 1_000_000..1_000_000_000) => format!("{:.1} MB", bytes as f64 / 1e6),
        Some(bytes) => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Histograms of a few bins read better as `{"0": 12, "10": 3}`.
fn with_short_maps_on_one_line(pretty: &str) -> String {
    let mut text = String::new();
    let mut lines = pretty.lines().peekable();
    while let Some(line) = lines.next() {
        text += line;
        let opens = line.ends_with(['{', '[']) && line.contains("\": ") && !line.contains("requests\":");
        if opens {
            let mut rest = Vec::new();
            let nested = |line: &str| line.ends_with(['{', '[']);
            for next in lines.clone() {
                if nested(next) {
                    rest.clear();
                    break;
                }
                rest.push(next.trim());
                if matches!(next.trim().trim_end_matches(','), "}" | "]") {
                    break;
                }
            }
            if !rest.is_empty() {
                text += &rest[..rest.len() - 1].join(" ");
                text += rest[rest.len() - 1];
                lines.nth(rest.len() - 1);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_bins() {
        let check = |bins: &[(u64, u64)], p50: &str, p95: &str| {
            let bins = bins.iter().copied().collect();
            assert_eq!((percentile(&bins, 50).as_str(), percentile(&bins, 95).as_str()), (p50, p95));
        };
        check(&[], "", "");
        check(&[(0, 1)], "<10 ms", "<10 ms");
        check(&[(0, 95), (120, 5)], "<10 ms", "<10 ms");
        check(&[(0, 94), (120, 6)], "<10 ms", "120-130 ms");
        check(&[(0, 1), (10, 1), (20, 1)], "10-20 ms", "20-30 ms");
    }

    #[test]
    fn averages_are_of_known_sizes() {
        assert_eq!(average(0, 0), "-");
        assert_eq!(average(0, 3), "0 B");
        assert_eq!(average(1999, 2), "999 B");
        assert_eq!(average(24_600, 2), "12.3 kB");
    }

    #[test]
    fn histograms_take_one_line() {
        let pretty = serde_json::to_string_pretty(
            &serde_json::json!({"a": {"0": 1, "10": 2}, "b": [], "c": {"d": {"e": 1}}}),
        );
        let expected =
            "{\n  \"a\": {\"0\": 1, \"10\": 2},\n  \"b\": [],\n  \"c\": {\n    \"d\": {\"e\": 1}\n  }\n}\n";
        assert_eq!(with_short_maps_on_one_line(&pretty.expect("it is JSON")), expected);
    }
}
