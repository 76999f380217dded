//! Delivers payloads: one task that owns the queue and the HTTP client.
//!
//! The task works in rounds, as the hub's does. A round sends what waits, one payload after the other, and ends when
//! nothing is left or at the first payload that could not be delivered; after such a round the next one starts an
//! interval later. A payload that is sent again is the same, byte for byte, by which the receiver knows it.
//!
//! [`Otlp`] is all that producers know of it, so a spool on disk can take the queue's place.

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceResponse, metrics::v1::ExportMetricsServiceResponse,
    trace::v1::ExportTraceServiceResponse,
};
use prost::Message as _;
use reqwest::{
    RequestBuilder, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tracing::{debug, error, info, warn};

use super::{
    config::{Destination, OtlpConfig},
    export::{Payload, Signal},
    queue::{Dropped, Queue},
    schedule::{INTERVAL, asked_for},
};
use crate::delivery::{Delivery, Failure, Outage, StartError, http_client};

/// Batches on their way into the queue. Only a stalled runtime lets them pile up; then they are dropped and counted
/// as `queue_full`.
const INBOX: usize = 1024;
/// Kept within a round, not until the next: by then the other side has often closed it.
const IDLE: Duration = Duration::from_secs(4);
/// Bytes of a reply that are looked at.
const MAX_REPLY: usize = 64 * 1024;

/// Handle of the delivery to one endpoint. Dropped without [`Otlp::finish`], it leaves what is queued unsent.
#[derive(Debug)]
pub struct Otlp {
    inbox: mpsc::Sender<Command>,
    state: watch::Receiver<OtlpState>,
    /// Payloads that did not fit into the inbox.
    overflow: AtomicU64,
    task: JoinHandle<Delivery>,
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
}

impl Default for OtlpState {
    fn default() -> Self {
        Self {
            queued: 0,
            queued_bytes: 0,
            delivered: 0,
            dropped: Dropped::default(),
            rejected_items: 0,
            interval: INTERVAL,
            last_answer: None,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct LastAnswer {
    pub at: SystemTime,
    pub answer: Result<Answer, Failure>,
}

/// What the endpoint made of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// But for so many of its points, spans or records.
    Delivered { rejected: u64 },
    /// It will never take this payload: the status.
    Refused(u16),
}

enum Command {
    Send(Vec<Payload>),
    Finish { deadline: Instant },
}

impl Otlp {
    /// Spawns the delivery; nothing is sent until there is a payload. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn start(config: OtlpConfig) -> Result<Self, StartError> {
        let http = http_client(config.timeout, IDLE)?;
        let (inbox, commands) = mpsc::channel(INBOX);
        let (publish, state) = watch::channel(OtlpState::default());
        let task = Task {
            http,
            config,
            commands,
            publish,
            state: OtlpState::default(),
            queue: Queue::default(),
            sending: None,
            finish: None,
            outage: Outage::default(),
        };
        Ok(Self { inbox, state, overflow: AtomicU64::new(0), task: tokio::spawn(task.run()) })
    }

    /// Hands over what belongs together; does not wait. Its traces go first, then logs, then metrics.
    pub fn send(&self, payloads: Vec<Payload>) {
        let count = payloads.len() as u64;
        if count > 0
            && self.inbox.try_send(Command::Send(payloads)).is_err()
            && self.overflow.fetch_add(count, Ordering::Relaxed) == 0
        {
            warn!("delivery does not keep up, payloads were dropped");
        }
    }

    pub fn state(&self) -> OtlpState {
        let mut state = self.state.borrow().clone();
        state.dropped.queue_full += self.overflow.load(Ordering::Relaxed);
        state
    }

    /// Sends what waits, as far as it can be done within `deadline`, and ends.
    ///
    /// Gives up early when a payload fails. Does not wait for a reply beyond the deadline: the payload it belongs to
    /// counts as undelivered, though the endpoint may have it.
    pub async fn finish(self, deadline: Duration) -> Delivery {
        let deadline = Instant::now() + deadline;
        // Fails only if the task has ended, and then it says below what it left.
        let _ = self.inbox.send(Command::Finish { deadline }).await;
        match self.task.await {
            Ok(delivery) => delivery,
            Err(error) => {
                error!(%error, "delivery ended before its time");
                Delivery { delivered: 0, undelivered: self.state.borrow().queued, kept: 0 }
            }
        }
    }
}

struct Task {
    http: reqwest::Client,
    config: OtlpConfig,
    commands: mpsc::Receiver<Command>,
    publish: watch::Sender<OtlpState>,
    /// What is published, as far as the queue does not know it.
    state: OtlpState,
    queue: Queue,
    /// Length of the payload that is out of the queue and not yet answered.
    sending: Option<usize>,
    finish: Option<Finish>,
    outage: Outage,
}

#[derive(Clone, Copy)]
struct Finish {
    deadline: Instant,
    delivered_before: u64,
}

#[derive(PartialEq, Eq)]
enum Round {
    Done,
    Failed,
}

impl Task {
    async fn run(mut self) -> Delivery {
        let finish = loop {
            if let Some(finish) = self.finish {
                break finish;
            }
            if self.queue.is_empty() {
                let command = self.commands.recv().await;
                self.accept(command);
                continue;
            }
            let started = Instant::now();
            if self.round().await == Round::Failed && self.finish.is_none() {
                let interval = self.config.pace.next_round(self.state.interval, fastrand::f64());
                // Never straight away, however long the failed round took.
                let next = (started + interval).max(Instant::now() + interval / 10);
                self.wait_until(next).await;
            }
        };
        self.round().await;
        let delivered = self.state.delivered - finish.delivered_before;
        Delivery { delivered, undelivered: self.queue.len(), kept: 0 }
    }

    /// Sends what waits, until something cannot be delivered.
    async fn round(&mut self) -> Round {
        let mut round = Round::Done;
        self.queue.start_round(SystemTime::now());
        self.publish();
        while let Some(waiting) = self.queue.take_next(SystemTime::now()) {
            self.sending = Some(waiting.payload.body.len());
            let answer = self.deliver(&waiting.payload).await;
            self.sending = None;
            self.state.last_answer = Some(LastAnswer { at: SystemTime::now(), answer: answer.clone() });
            let signal = waiting.payload.signal;
            match answer {
                Ok(answer) => self.settle(signal, answer),
                Err(failure) => {
                    self.queue.put_back(waiting);
                    self.note_failure(signal, &failure);
                    round = Round::Failed;
                    break;
                }
            }
            self.publish();
            if !self.queue.is_empty() && self.finish.is_none() {
                self.wait_until(Instant::now() + self.config.pace.pause(fastrand::f64())).await;
            }
        }
        if round == Round::Done {
            self.note_recovery();
        }
        self.publish();
        round
    }

    /// Sends one payload, and once more when the connection failed.
    async fn deliver(&mut self, payload: &Payload) -> Result<Answer, Failure> {
        let failure = match self.post(payload).await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        debug!(signal = payload.signal.as_str(), cause = %failure, "a try failed");
        let is_late = self.finish.is_some_and(|finish| finish.deadline <= Instant::now());
        if is_late || matches!(failure, Failure::Status(_) | Failure::TimedOut) {
            return Err(failure);
        }
        self.post(payload).await
    }

    /// One try. Takes commands meanwhile.
    async fn post(&mut self, payload: &Payload) -> Result<Answer, Failure> {
        let mut reply = pin!(exchange(self.request(payload), payload.signal));
        let (answer, interval) = loop {
            let deadline = self.finish.map(|finish| finish.deadline);
            tokio::select! {
                biased;
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Err(Failure::TimedOut);
                }
                reply = &mut reply => break reply?,
                command = self.commands.recv(), if deadline.is_none() => self.accept(command),
            }
        };
        if let Some(interval) = interval {
            self.state.interval = interval;
        }
        answer
    }

    fn request(&self, payload: &Payload) -> RequestBuilder {
        let OtlpConfig { endpoint, destination, .. } = &self.config;
        let request = self
            .http
            .post(endpoint.url(payload.signal))
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(CONTENT_ENCODING, "gzip")
            .body(payload.body.clone());
        match destination {
            Destination::Apitally(token) => request
                .header(AUTHORIZATION, token.authorization())
                .header("apitally-env", self.config.environment()),
            Destination::Collector(headers) => headers
                .iter()
                .fold(request, |request, header| request.header(&header.name, header.value.clone())),
        }
    }

    /// Takes commands until then, or until one of them is to finish.
    async fn wait_until(&mut self, until: Instant) {
        let finishing = self.finish.is_some();
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                command = self.commands.recv(), if !finishing => self.accept(command),
            }
            if self.finish.is_some() && !finishing {
                return;
            }
        }
    }

    /// None: whoever could send commands is gone.
    fn accept(&mut self, command: Option<Command>) {
        let deadline = match command {
            Some(Command::Send(payloads)) => {
                payloads.into_iter().for_each(|payload| self.queue.push(payload));
                self.publish();
                return;
            }
            Some(Command::Finish { deadline }) => deadline,
            None => Instant::now(),
        };
        self.finish = Some(Finish { deadline, delivered_before: self.state.delivered });
    }

    /// The endpoint has decided about a payload.
    fn settle(&mut self, signal: Signal, answer: Answer) {
        let may_warn = answer != Answer::Delivered { rejected: 0 } && self.outage.may_warn();
        let (host, env, kind) = (self.config.endpoint.host(), self.config.env.as_str(), signal.as_str());
        match answer {
            Answer::Delivered { rejected } => {
                self.state.delivered += 1;
                self.state.rejected_items += rejected;
                debug!(host, env, kind, "payload delivered");
                if may_warn {
                    warn!(host, env, kind, rejected, "the OTLP endpoint took a payload only in part");
                }
            }
            Answer::Refused(402) if signal == Signal::Traces => {
                self.queue.dropped.over_quota += 1;
                if may_warn {
                    warn!(
                        host,
                        env, kind, "the plan's quota of requests is used up, dropping them; metrics go on"
                    );
                }
            }
            Answer::Refused(status) => {
                self.queue.dropped.rejected += 1;
                if may_warn {
                    let advice = match status {
                        401 | 403 => {
                            "; compare the write token with the dashboard, or the headers for a collector"
                        }
                        404 => "; is the endpoint's path right?",
                        _ => "",
                    };
                    warn!(
                        host,
                        env, kind, status, "the OTLP endpoint refused a payload, it is dropped{advice}"
                    );
                }
            }
        }
    }

    /// Says that the endpoint can be reached again, if it was said that it cannot.
    fn note_recovery(&mut self) {
        if let Some(away) = self.outage.end() {
            let (host, env) = (self.config.endpoint.host(), self.config.env.as_str());
            info!(host, env, away_s = away.as_secs(), "the OTLP endpoint is back, everything is delivered");
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
                queued = self.queue.len(),
                dropped = self.queue.dropped.total(),
                "the OTLP endpoint took no payload, keeping it for later"
            );
        }
    }

    fn publish(&mut self) {
        self.state.queued = self.queue.len() + usize::from(self.sending.is_some());
        self.state.queued_bytes = self.queue.bytes() + self.sending.unwrap_or(0);
        self.state.dropped = self.queue.dropped;
        self.publish.send_replace(self.state.clone());
    }
}

/// Sends a request and reads the reply: the answer, and the interval that it asks for.
async fn exchange(
    request: RequestBuilder,
    signal: Signal,
) -> Result<(Result<Answer, Failure>, Option<Duration>), Failure> {
    let reply = request.send().await?;
    let status = reply.status();
    let interval = reply.headers().get("apitally-export-interval").and_then(|value| value.to_str().ok());
    let interval = interval.and_then(asked_for);
    let answer = match status {
        _ if status.is_success() => Ok(Answer::Delivered { rejected: rejected(reply, signal).await }),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(Failure::Status(status.as_u16())),
        _ if status.is_client_error() => Ok(Answer::Refused(status.as_u16())),
        _ => Err(Failure::Status(status.as_u16())),
    };
    Ok((answer, interval))
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
