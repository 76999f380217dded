//! All runs, and what they come to: medians, and ratios between runs of one round.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::load::Seen;
use crate::measure::{CallTimes, Company, Cpus, Run};
use crate::seconds;
use crate::subject::Subject;

/// How it was measured.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    pub rounds: u64,
    pub seconds: u64,
    pub connections: usize,
    pub cpus: Cpus,
    pub load_average: f64,
}

/// Runs in the order of the rounds.
pub struct Results {
    pub setting: Setting,
    full: BTreeMap<(Subject, Company), Vec<Run>>,
    steady: BTreeMap<Company, Vec<Run>>,
    /// The agent with so many connections.
    pub crowds: BTreeMap<usize, Run>,
    /// Nanoseconds per request by program.
    pub kernel_time: BTreeMap<(Subject, Company), BTreeMap<String, f64>>,
    calls: BTreeMap<bool, Vec<CallTimes>>,
    pub took: Duration,
}

/// What rounds say of one figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub least: f64,
    pub median: f64,
    pub most: f64,
}

impl Spread {
    /// None of no values.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Some(Self { least, median, most })
    }
}

impl Run {
    /// CPU seconds per million requests: the server's, and the agent's.
    pub fn cpu_per_million(&self) -> (f64, f64) {
        let millions = self.seen.requests as f64 / 1e6;
        let agent = self.agent.as_ref().map_or(0.0, |agent| seconds(agent.cpu));
        (seconds(self.server_cpu) / millions, agent / millions)
    }

    /// Of the server and the agent together.
    pub fn cpu_in_all(&self) -> f64 {
        let (server, agent) = self.cpu_per_million();
        server + agent
    }
}

impl Results {
    pub fn new(setting: Setting) -> Self {
        Self {
            setting,
            full: BTreeMap::new(),
            steady: BTreeMap::new(),
            crowds: BTreeMap::new(),
            kernel_time: BTreeMap::new(),
            calls: BTreeMap::new(),
            took: Duration::ZERO,
        }
    }

    pub fn add_full(&mut self, subject: Subject, company: Company, run: Run) {
        self.full.entry((subject, company)).or_default().push(run);
    }

    pub fn add_steady(&mut self, company: Company, run: Run) {
        self.steady.entry(company).or_default().push(run);
    }

    pub fn add_crowd(&mut self, connections: usize, run: Run) {
        self.crowds.insert(connections, run);
    }

    pub fn add_call_times(&mut self, with_agent: bool, times: CallTimes) {
        self.calls.entry(with_agent).or_default().push(times);
    }

    /// Runs under full load.
    pub fn full(&self, subject: Subject, company: Company) -> &[Run] {
        self.full.get(&(subject, company)).map_or(&[], Vec::as_slice)
    }

    /// Those that were measured, in the order of the list.
    pub fn subjects(&self) -> Vec<Subject> {
        let measured = |subject: &Subject| !self.full(*subject, Company::Nobody).is_empty();
        Subject::ALL.into_iter().filter(measured).collect()
    }

    /// A figure of the runs.
    pub fn spread(&self, subject: Subject, company: Company, figure: impl Fn(&Run) -> f64) -> Option<Spread> {
        Spread::of(self.full(subject, company).iter().map(figure))
    }

    /// The same figure in company and alone: what it is times as much, round by round.
    pub fn ratio(&self, subject: Subject, company: Company, figure: impl Fn(&Run) -> f64) -> Option<Spread> {
        let alone = self.full(subject, Company::Nobody);
        Spread::of(
            self.full(subject, company).iter().zip(alone).map(|(with, alone)| figure(with) / figure(alone)),
        )
    }

    /// Requests per second, the median.
    pub fn rate(&self, subject: Subject, company: Company) -> f64 {
        self.spread(subject, company, |run| run.seen.rate()).map_or(0.0, |spread| spread.median)
    }

    /// What a time is times as much with the agent, at half of the rate.
    pub fn steady_ratio(&self, time: impl Fn(&Seen) -> Duration) -> Option<Spread> {
        let [alone, with] = [Company::Nobody, Company::Agent].map(|company| self.steady.get(&company));
        let ratios = with?.iter().zip(alone?);
        Spread::of(ratios.map(|(with, alone)| seconds(time(&with.seen)) / seconds(time(&alone.seen))))
    }

    /// Runs at half of the rate.
    pub fn steady(&self, company: Company) -> &[Run] {
        self.steady.get(&company).map_or(&[], Vec::as_slice)
    }

    /// Time in all programs per request, nanoseconds.
    pub fn kernel_time(&self, subject: Subject, company: Company) -> Option<f64> {
        self.kernel_time.get(&(subject, company)).map(|times| times.values().sum())
    }

    /// What the agent adds to a system call that it does not look at, nanoseconds.
    pub fn added_to_a_call(&self, time: impl Fn(&CallTimes) -> f64) -> Option<Spread> {
        let pairs = self.calls.get(&true)?.iter().zip(self.calls.get(&false)?);
        Spread::of(pairs.map(|(with, without)| time(with) - time(without)))
    }

    /// Every run, for whoever wants to calculate anew.
    pub fn to_json(&self) -> Value {
        let full = self.full.iter().map(|((subject, company), runs)| {
            let runs: Vec<Value> = runs.iter().map(Run::to_json).collect();
            json!({"server": subject.name(), "company": company.name(), "runs": runs})
        });
        let steady = self.steady.iter().map(|(company, runs)| {
            let runs: Vec<Value> = runs.iter().map(Run::to_json).collect();
            json!({"company": company.name(), "runs": runs})
        });
        let crowds = self
            .crowds
            .iter()
            .map(|(connections, run)| json!({"connections": connections, "run": run.to_json()}));
        let kernel =
            self.kernel_time.iter().map(|((subject, company), times)| {
                json!({"server": subject.name(), "company": company.name(), "ns": times})
            });
        let calls = self.calls.iter().flat_map(|(with_agent, times)| {
            times.iter().map(move |times| {
                json!({"agent": with_agent, "getppid_ns": times.getppid, "read_write_ns": times.read_write})
            })
        });
        json!({
            "full": full.collect::<Vec<_>>(),
            "half": steady.collect::<Vec<_>>(),
            "connections": crowds.collect::<Vec<_>>(),
            "kernel_ns_per_request": kernel.collect::<Vec<_>>(),
            "calls": calls.collect::<Vec<_>>(),
        })
    }
}

impl Run {
    fn to_json(&self) -> Value {
        let mut run = json!({
            "requests": self.seen.requests,
            "seconds": seconds(self.seen.span),
            "p50_us": self.seen.p50.as_micros() as u64,
            "p99_us": self.seen.p99.as_micros() as u64,
            "server_cpu_seconds": seconds(self.server_cpu),
        });
        if let Some(agent) = &self.agent {
            run["agent_cpu_seconds"] = seconds(agent.cpu).into();
            run["agent_resident_bytes"] = agent.resident_bytes.into();
            run["reported"] = agent.reported.into();
            run["lost"] = json!(agent.lost);
        }
        run
    }
}
