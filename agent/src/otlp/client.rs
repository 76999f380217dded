//! Delivers payloads to an OTLP endpoint.
//!
//! A payload that is sent again is the same, byte for byte, by which the receiver knows it.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, metrics::v1::ExportMetricsServiceResponse,
    trace::v1::ExportTraceServiceResponse,
};
use prost::Message as _;
use reqwest::{
    RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap},
};
use tokio::time::Instant;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    config::{Destination, OtlpConfig},
    export::{Payload, Signal},
    queue::{Dropped, Queue, RULES},
    schedule::{INTERVAL, asked_for},
};
use crate::{
    delivery::{self, Delivery, Failure, Handle, Outage, StartError, Then, Way, http_client},
    spool::{Entry, Id, Spool, SpoolState},
};

/// Kept within a round, not until the next: by then the other side has often closed it.
const IDLE: Duration = Duration::from_secs(4);
/// Bytes of a reply that are looked at.
const MAX_REPLY: usize = 64 * 1024;

/// Handle of the delivery to one endpoint. Dropped without [`Otlp::finish`], it leaves what is queued unsent.
#[derive(Debug)]
pub struct Otlp {
    handle: Handle<Vec<Payload>, OtlpState>,
    /// See [`Self::settled`].
    settled: HashMap<Uuid, u64>,
}

/// A look at the delivery, for logs and for those who decide when to export.
#[derive(Clone, Debug, PartialEq)]
pub struct OtlpState {
    /// Payloads that wait, the one being sent included.
    pub queued: usize,
    /// Their bytes, as they are sent.
    pub queued_bytes: usize,
    pub delivered: u64,
    pub dropped: Dropped,
    /// Points, spans and records in delivered payloads that the endpoint says it did not take.
    pub rejected_items: u64,
    /// Between two exports, as the endpoint wants it.
    pub interval: Duration,
    pub last_answer: Option<LastAnswer>,
    /// Where the payloads wait.
    pub spool: SpoolState,
}

pub type LastAnswer = delivery::LastAnswer<Answer>;

/// What the endpoint made of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// But for so many of its points, spans or records.
    Delivered { rejected: u64 },
    /// It will never take this payload: the status.
    Refused(u16),
}

impl Otlp {
    /// Spawns the delivery. It begins with what an earlier run left, which is looked for now: waits for the disk. Needs
    /// a tokio runtime around it.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn start(config: OtlpConfig) -> Result<Self, StartError> {
        let http = http_client(config.timeout, IDLE)?;
        let now = config.clock.now();
        let spool = Spool::open(config.state_dir.as_deref(), &config.spool_name(), RULES, &now);
        let settled = spool.settled().clone();
        let way = OtlpWay {
            http,
            config,
            queue: Queue::new(spool),
            delivered: 0,
            rejected_items: 0,
            interval: INTERVAL,
            last_answer: None,
            outage: Outage::default(),
        };
        Ok(Self { handle: Handle::start(way), settled })
    }

    /// Up to where payloads that an earlier run left settle the account of that run; see [`crate::spool::Account`].
    pub fn settled(&self, life: Uuid) -> Option<u64> {
        self.settled.get(&life).copied()
    }

    /// Hands over what belongs together; does not wait. Its traces go first, then logs, then metrics. Receipts are
    /// settled when their payloads are in a safe place.
    pub fn send(&self, payloads: Vec<Payload>) {
        let count = payloads.len() as u64;
        if count > 0 {
            self.handle.send(payloads, count);
        }
    }

    /// Tries that failed, by reason; some of them for the same one of the payloads.
    pub fn failures(&self) -> BTreeMap<&'static str, u64> {
        self.handle.failures()
    }

    pub fn state(&self) -> OtlpState {
        let mut state = self.handle.state();
        state.dropped.queue_full += self.handle.overflow();
        state
    }

    /// Sends what waits, as far as it can be done within `deadline`, and ends; see [`Handle::finish`].
    pub async fn finish(self, deadline: Duration) -> Delivery {
        self.handle.finish(deadline, |state| state.queued).await
    }
}

struct OtlpWay {
    http: reqwest::Client,
    config: OtlpConfig,
    queue: Queue,
    delivered: u64,
    rejected_items: u64,
    /// Between two exports, as the endpoint wants it.
    interval: Duration,
    last_answer: Option<LastAnswer>,
    outage: Outage,
}

impl Way for OtlpWay {
    type Message = Vec<Payload>;
    type Kind = Signal;
    type Answer = Answer;
    type State = OtlpState;

    fn spool(&self) -> &Spool {
        &self.queue.spool
    }

    fn spool_mut(&mut self) -> &mut Spool {
        &mut self.queue.spool
    }

    fn into_spool(self) -> Spool {
        self.queue.spool
    }

    fn push(&mut self, payloads: Vec<Payload>) {
        let now = self.config.clock.now();
        payloads.into_iter().for_each(|payload| self.queue.push(payload, &now));
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn start_round(&mut self, _finishing: bool) {
        self.queue.start_round(&self.config.clock.now());
    }

    fn next(&self) -> Option<(Signal, Id)> {
        self.queue.next()
    }

    fn request(&self, signal: Signal, entry: &Entry) -> RequestBuilder {
        let OtlpConfig { endpoint, destination, .. } = &self.config;
        let request = self
            .http
            .post(endpoint.url(signal))
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(CONTENT_ENCODING, "gzip")
            .body(entry.body.clone());
        match destination {
            Destination::Apitally(token) => request
                .header(AUTHORIZATION, token.authorization())
                .header("apitally-env", self.config.environment()),
            Destination::Collector(headers) => headers
                .iter()
                .fold(request, |request, header| request.header(&header.name, header.value.clone())),
        }
    }

    fn heed(&mut self, headers: &HeaderMap) {
        let interval = headers.get("apitally-export-interval").and_then(|value| value.to_str().ok());
        if let Some(interval) = interval.and_then(asked_for) {
            self.interval = interval;
        }
    }

    async fn read(signal: Signal, reply: Response) -> Result<Answer, Failure> {
        let status = reply.status();
        match status {
            _ if status.is_success() => Ok(Answer::Delivered { rejected: rejected(reply, signal).await }),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(Failure::Status(status.as_u16()))
            }
            _ if status.is_client_error() => Ok(Answer::Refused(status.as_u16())),
            _ => Err(Failure::Status(status.as_u16())),
        }
    }

    /// Once more, at once, when the connection failed.
    fn retry_wait(&self, _signal: Signal, failed: u32, failure: &Failure) -> Option<Duration> {
        let is_answered = matches!(failure, Failure::Status(_) | Failure::TimedOut);
        (failed == 1 && !is_answered).then_some(Duration::ZERO)
    }

    fn settle(&mut self, signal: Signal, id: Id, answer: Result<Answer, Failure>) -> Then {
        self.last_answer = Some(LastAnswer { at: SystemTime::now(), answer: answer.clone() });
        match answer {
            Ok(answer) => {
                match answer {
                    Answer::Delivered { rejected } => {
                        self.queue.delivered(id);
                        self.delivered += 1;
                        self.rejected_items += rejected;
                    }
                    Answer::Refused(402) if signal == Signal::Traces => self.queue.over_quota(id),
                    Answer::Refused(_) => self.queue.rejected(id),
                }
                self.note_answer(signal, answer);
                Then::Next
            }
            Err(failure) => {
                self.queue.put_back(id, &self.config.clock.now());
                self.note_failure(signal, &failure);
                Then::End
            }
        }
    }

    fn pause(&self, _signal: Signal, _backlog: usize) -> Duration {
        self.config.pace.pause(fastrand::f64())
    }

    fn round_after(&self, started: Instant, ended: Instant) -> Instant {
        let interval = self.config.pace.next_round(self.interval, fastrand::f64());
        // Never straight away, however long the failed round took.
        (started + interval).max(ended + interval / 10)
    }

    /// Says that the endpoint can be reached again, if it was said that it cannot.
    fn recovered(&mut self) {
        if let Some(away) = self.outage.end() {
            let (host, env) = (self.config.endpoint.host(), self.config.env.as_str());
            info!(host, env, away_s = away.as_secs(), "the OTLP endpoint is back, everything is delivered");
        }
    }

    fn delivered(&self) -> u64 {
        self.delivered
    }

    fn state(&self) -> OtlpState {
        let spool = self.queue.spool.state();
        OtlpState {
            queued: spool.messages,
            queued_bytes: spool.bytes,
            delivered: self.delivered,
            dropped: self.queue.dropped(),
            rejected_items: self.rejected_items,
            interval: self.interval,
            last_answer: self.last_answer.clone(),
            spool,
        }
    }
}

impl OtlpWay {
    /// The endpoint has decided about a payload.
    fn note_answer(&mut self, signal: Signal, answer: Answer) {
        let may_warn = answer != Answer::Delivered { rejected: 0 } && self.outage.may_warn();
        let (host, env, kind) = (self.config.endpoint.host(), self.config.env.as_str(), signal.as_str());
        match answer {
            Answer::Delivered { .. } if !may_warn => debug!(host, env, kind, "payload delivered"),
            _ if !may_warn => {}
            Answer::Delivered { rejected } => {
                warn!(host, env, kind, rejected, "the OTLP endpoint took a payload only in part");
            }
            Answer::Refused(402) if signal == Signal::Traces => {
                warn!(
                    host,
                    env, kind, "the plan's quota of requests is used up, dropping them; metrics go on"
                );
            }
            Answer::Refused(status) => {
                let advice = match status {
                    401 | 403 => {
                        "; compare the write token with the dashboard, or the headers for a collector"
                    }
                    404 => "; is the endpoint's path right?",
                    _ => "",
                };
                warn!(host, env, kind, status, "the OTLP endpoint refused a payload, it is dropped{advice}");
            }
        }
    }

    /// Says that the endpoint cannot be reached, but not too often.
    fn note_failure(&mut self, signal: Signal, failure: &Failure) {
        if self.outage.goes_on() {
            warn!(
                host = self.config.endpoint.host(),
                env = self.config.env.as_str(),
                kind = signal.as_str(),
                cause = %failure,
                queued = self.queue.spool.len(),
                dropped = self.queue.dropped().total(),
                "the OTLP endpoint took no payload, keeping it for later"
            );
        }
    }
}

/// How many items the endpoint says it did not take. What cannot be read says nothing: it has taken the payload.
async fn rejected(mut reply: Response, signal: Signal) -> u64 {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = reply.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_REPLY {
            return 0;
        }
    }
    let rejected = match signal {
        Signal::Traces => ExportTraceServiceResponse::decode(&*body)
            .ok()
            .and_then(|reply| reply.partial_success)
            .map(|partial| partial.rejected_spans),
        Signal::Logs => ExportLogsServiceResponse::decode(&*body)
            .ok()
            .and_then(|reply| reply.partial_success)
            .map(|partial| partial.rejected_log_records),
        Signal::Metrics => ExportMetricsServiceResponse::decode(&*body)
            .ok()
            .and_then(|reply| reply.partial_success)
            .map(|partial| partial.rejected_data_points),
    };
    u64::try_from(rejected.unwrap_or(0)).unwrap_or(0)
}
