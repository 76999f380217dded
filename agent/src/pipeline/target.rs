//! One target's account: takes exchanges when they open, and turns them into counts when they close.

use core::net::SocketAddr;
use std::{collections::HashSet, sync::Arc};

use super::{
    Ktime, Limits, Policy,
    consumer::{ConsumerId, ConsumerRules, Consumers, Evidence, Identified},
    counters::{Counted, Counters, Counts, Key, Measured, ServerErrors, ValidationErrors},
    cumulative::{self, Cumulative},
    detail::{
        Body, Logged, Message,
        budget::{Budget, Held},
        collect::{Details, Kept, NoRoom},
    },
    errors::{
        Said, Says,
        server::ServerError,
        tally::{Place, Tally},
        validation::ValidationError,
    },
    http::{
        framing::Framing,
        head::{Method, RequestHead, ResponseHead},
    },
    ledger::{Cause, Ledger},
    route::{Found, RouteId, Routes, Settle, Source, declared::Endpoint},
};

/// Pairs of method and route that [`Target::operations`] lists; later ones are counted and not listed.
const MAX_CALLED: usize = 8192;

/// Routes, consumers, counters and ledger of one target.
#[derive(Debug)]
pub struct Target {
    pub policy: Policy,
    routes: Routes,
    consumers: Consumers,
    counters: Counters,
    /// None when nobody asks for them.
    cumulative: Option<Cumulative>,
    pub ledger: Ledger,
    /// Exchanges opened and not closed.
    open: u64,
    /// Method and route of what was called and not refused, in order of appearance.
    called: Vec<(Method, RouteId)>,
    generation: u64,
    /// Exchanges that the policy keeps, since the last take, and the memory of their details.
    logged: Vec<(Logged, Held)>,
    details: Budget,
    validation_errors: Tally<ValidationError>,
    server_errors: Tally<ServerError>,
    /// Nothing is taken any more.
    pub finished: bool,
    #[cfg(test)]
    pub reported: Vec<String>,
}

/// What is kept of a request while its exchange is open.
#[derive(Debug)]
pub struct Request {
    /// None for a method the hub does not take.
    pub method: Option<Method>,
    /// None when the target of the request is no path.
    found: Option<Found>,
    consumer: Option<ConsumerId>,
}

/// What may be called on a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    pub method: Method,
    pub template: String,
    /// What an OpenAPI document says of it.
    pub summary: Option<String>,
    pub description: Option<String>,
}

/// How an exchange ended.
#[derive(Debug)]
pub enum Outcome {
    Answered(Answer),
    Lost(Cause),
}

/// What is known of an exchange that was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub measured: Measured,
    pub head_received: Ktime,
    pub first_byte: Ktime,
    pub last_byte: Ktime,
    /// Where the policy keeps any, and there was room.
    pub kept: Option<Box<Kept>>,
}

/// What an exchange was counted as.
#[derive(Clone, Copy, Debug)]
struct Account {
    route: Option<RouteId>,
    /// None when it is reported.
    lost_to: Option<Cause>,
}

impl Target {
    pub fn new(policy: Policy, limits: &Limits, details: Budget, cumulative: Option<Cumulative>) -> Self {
        Self {
            routes: Routes::new(Arc::clone(&policy.routes), limits.max_routes),
            consumers: Consumers::new(Arc::clone(&policy.consumers), limits.max_consumers),
            counters: Counters::new(policy.distributions, limits.max_rows),
            cumulative,
            policy,
            ledger: Ledger::default(),
            open: 0,
            called: Vec::new(),
            generation: 0,
            logged: Vec::new(),
            details,
            validation_errors: Tally::default(),
            server_errors: Tally::default(),
            finished: false,
            #[cfg(test)]
            reported: Vec::new(),
        }
    }

    /// Requests that are open already keep the route and the consumer they were given.
    pub fn set_policy(&mut self, policy: Policy) {
        if !Arc::ptr_eq(&self.policy.routes, &policy.routes) {
            self.routes.replace(Arc::clone(&policy.routes));
            self.generation += 1;
        }
        self.consumers.replace_rules(Arc::clone(&policy.consumers));
        self.counters.distributions = policy.distributions;
        self.policy = policy;
    }

    pub fn watches_port(&self, port: u16) -> bool {
        self.policy.ports.is_empty() || self.policy.ports.contains(&port)
    }

    /// An exchange has begun. Whoever gets the request hands it back to [`Target::close`], once.
    pub fn open(&mut self, head: &RequestHead<'_>, client: Option<SocketAddr>) -> Request {
        self.ledger.seen += 1;
        self.open += 1;
        let evidence = Evidence { fields: head.fields, target: head.target, peer: client };
        let consumer = match self.consumers.identify(&evidence) {
            Identified::Consumer(id) => Some(id),
            Identified::Nobody => None,
            Identified::NoRoom => {
                self.ledger.consumers_over_limit += 1;
                Some(ConsumerId::OTHERS)
            }
        };
        let found = head.path.map(|path| self.routes.find(head.method, path));
        Request { method: head.method, found, consumer }
    }

    pub fn close(&mut self, request: Request, outcome: Outcome) {
        self.open = self.open.saturating_sub(1);
        let answer = match outcome {
            Outcome::Answered(answer) => answer,
            Outcome::Lost(cause) => {
                if let Some(Found::Candidate(candidate)) = request.found {
                    self.routes.settle(candidate, Settle::Drop);
                }
                self.ledger.add(cause, 1);
                self.release(request.consumer);
                return;
            }
        };
        let (method, consumer) = (request.method, request.consumer);
        let account = self.account(request, answer.status, &answer.measured);
        match account.lost_to {
            None => self.ledger.reported += 1,
            Some(cause) => self.ledger.add(cause, 1),
        }
        if let Some(kept) = &answer.kept
            && let (None, Some(says)) = (account.lost_to, kept.says)
            && let (Some(method), Some(route)) = (method, account.route)
        {
            self.read_errors(says, Place { consumer, method, route }, answer.status, &kept.response);
        }
        self.log(method, consumer, account.route, answer);
        self.release(consumer);
    }

    /// Counts what a response says of errors.
    fn read_errors(&mut self, says: Says, place: Place, status: u16, response: &Message) {
        let Some(Ok(body)) = response.decoded() else {
            self.ledger.error_bodies_unread += u64::from(response.body != Body::None);
            return;
        };
        match Said::read(says, status, response.field("allow").is_some(), &body) {
            Said::Nothing => {}
            Said::WrongRequest(found) => {
                self.ledger.validation_errors_dropped += found.dropped;
                for error in found.errors {
                    let text = error.text();
                    let counted = self.validation_errors.count(place, error, text);
                    self.ledger.validation_errors_dropped += u64::from(!counted);
                }
            }
            Said::ServerError(error) => {
                let text = error.text();
                let counted = self.server_errors.count(place, error, text);
                self.ledger.server_errors_dropped += u64::from(!counted);
            }
        }
    }

    /// Keeps an exchange until it is taken, where the policy says so and there is room.
    fn log(
        &mut self,
        method: Option<Method>,
        consumer: Option<ConsumerId>,
        route: Option<RouteId>,
        answer: Answer,
    ) {
        let Some(kept) = answer.kept.filter(|kept| kept.is_whole) else { return };
        let Kept { client, target, request, mut response, mut held, keeps_response_body, .. } = *kept;
        if !keeps_response_body {
            response.body = Body::None;
        }
        let route = route.map(|route| self.routes.template(route).to_owned());
        let consumer = consumer.and_then(|id| self.consumers.identifier(id)).map(str::to_owned);
        let text = route.as_ref().map_or(0, String::len) + consumer.as_ref().map_or(0, String::len);
        if !held.grow(size_of::<(Logged, Held)>() + text) {
            self.ledger.details_dropped += 1;
            return;
        }
        let logged = Logged {
            head_received: answer.head_received,
            first_byte: answer.first_byte,
            last_byte: answer.last_byte,
            response_time: answer.measured.response_time,
            method,
            route,
            consumer,
            status: answer.status,
            request_size: answer.measured.request_size,
            response_size: answer.measured.response_size,
            client,
            target,
            request,
            response,
        };
        self.logged.push((logged, held));
    }

    /// What is kept of a request, where the policy says so.
    pub fn keep_request(
        &mut self,
        head: &RequestHead<'_>,
        framing: Framing,
        client: Option<SocketAddr>,
    ) -> Option<Box<Details>> {
        if !self.policy.keep.exchanges {
            return None;
        }
        let details = Details::of_request(head, framing, client, &self.policy.keep, &self.details).ok();
        self.ledger.details_dropped += u64::from(details.is_none());
        details.map(Box::new)
    }

    /// Adds what is kept of the response to the request.
    pub fn keep_response(
        &mut self,
        details: &mut Option<Box<Details>>,
        head: &ResponseHead<'_>,
        framing: Framing,
    ) {
        let keep = &self.policy.keep;
        let kept = match details.take() {
            Some(mut kept) => kept.add_response(head, framing, keep).map(|()| Some(kept)),
            None if keep.errors && !keep.exchanges => {
                Details::of_errors(head, framing, keep, &self.details).map(|kept| kept.map(Box::new))
            }
            None => return,
        };
        match kept {
            Ok(kept) => *details = kept,
            Err(NoRoom) => self.ledger.details_dropped += 1,
        }
    }

    /// An exchange that has begun was none after all.
    pub fn forget(&mut self, request: Request) {
        self.ledger.seen = self.ledger.seen.saturating_sub(1);
        self.open = self.open.saturating_sub(1);
        if let Some(Found::Candidate(candidate)) = request.found {
            self.routes.settle(candidate, Settle::Drop);
        }
        self.release(request.consumer);
    }

    /// `count` exchanges that never opened: we know of them, and what became of them.
    pub fn lose(&mut self, cause: Cause, count: u64) {
        self.ledger.seen = self.ledger.seen.saturating_add(count);
        self.ledger.add(cause, count);
    }

    /// Exchanges open right now.
    pub fn open_exchanges(&self) -> u64 {
        self.open
    }

    /// The promises of [`Ledger`] and [`super::ledger::Bytes`].
    pub fn adds_up(&self) -> bool {
        self.exchanges_add_up() && self.ledger.bytes.adds_up()
    }

    fn exchanges_add_up(&self) -> bool {
        let known = [self.ledger.reported, self.ledger.lost(), self.open];
        self.ledger.seen == known.iter().fold(0, |sum: u64, count| sum.saturating_add(*count))
    }

    pub fn take_counts(&mut self) -> Counts {
        let (consumers, routes) = (&self.consumers, &self.routes);
        let identifier = |id| consumers.identifier(id).map(str::to_owned);
        let template = |id| routes.template(id).to_owned();
        let row = |place: Place| {
            let method = place.method.as_str().to_owned();
            (place.consumer.and_then(identifier), method, template(place.route))
        };
        let counts = self.counters.take(identifier, template);
        let validation_errors = self.validation_errors.take().map(|(place, error, count)| {
            let (consumer, method, path) = row(place);
            let ValidationError { location, message, kind } = error;
            ValidationErrors { consumer, method, path, location, message, kind, count }
        });
        let mut validation_errors: Vec<ValidationErrors> = validation_errors.collect();
        validation_errors.sort();
        let server_errors = self.server_errors.take().map(|(place, error, count)| {
            let (consumer, method, path) = row(place);
            let ServerError { kind, message, traceback } = error;
            ServerErrors { consumer, method, path, kind, message, traceback, count }
        });
        let mut server_errors: Vec<ServerErrors> = server_errors.collect();
        server_errors.sort();
        let consumers = self.consumers.take_names();
        self.consumers.forget_idle();
        Counts { validation_errors, server_errors, consumers, ..counts }
    }

    /// Everything counted since the target was added.
    pub fn cumulative(&self) -> Vec<cumulative::Row> {
        let template = |route| self.routes.template(route);
        self.cumulative.as_ref().map(|cumulative| cumulative.rows(template)).unwrap_or_default()
    }

    /// Has all names of consumers in the next counts, as if they were new.
    pub fn resend_consumers(&mut self) {
        self.consumers.resend_names();
    }

    /// Goes on by other rules for consumers. Who is known stays known.
    pub fn replace_consumer_rules(&mut self, rules: Arc<ConsumerRules>) {
        self.policy.consumers = Arc::clone(&rules);
        self.consumers.replace_rules(rules);
    }

    /// What time it is, about once a second.
    pub fn handle_tick(&mut self, now: Ktime) {
        self.consumers.handle_tick(now);
    }

    /// Exchanges that the policy keeps, since the last call.
    pub fn take_logged(&mut self) -> Vec<Logged> {
        // The memory is that of whoever takes them, from here on.
        self.logged.drain(..).map(|(logged, _)| logged).collect()
    }

    /// Memory that exchanges hold which nobody has taken, bytes.
    pub fn logged(&self) -> usize {
        self.logged.iter().map(|(_, held)| held.bytes()).sum()
    }

    /// What may be called: what is declared with its method, in that order, and then what was called beside it, in
    /// order of appearance and without HEAD and OPTIONS.
    pub fn operations(&self) -> Vec<Operation> {
        let mut listed = HashSet::new();
        let declared = self.routes.declared().endpoints().iter().filter_map(|endpoint| {
            let (method, template) = (endpoint.method?, endpoint.pattern.template());
            listed.insert((method, template)).then(|| Operation {
                method,
                template: template.to_owned(),
                summary: endpoint.summary.as_deref().map(str::to_owned),
                description: endpoint.description.as_deref().map(str::to_owned),
            })
        });
        let mut operations: Vec<Operation> = declared.collect();
        let called = self.called.iter().map(|(method, route)| (*method, self.routes.template(*route)));
        operations.extend(called.filter(|called| !listed.contains(called)).map(|(method, template)| {
            Operation { method, template: template.to_owned(), summary: None, description: None }
        }));
        operations
    }

    /// Templates of its routes and where they come from, in the order in which they became known.
    pub fn templates(&self) -> impl Iterator<Item = (&str, Source)> {
        self.routes.templates()
    }

    /// Consumers that are known.
    pub fn consumers(&self) -> usize {
        self.consumers.count()
    }

    /// Moves when the list of [`Target::operations`] changes.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn release(&mut self, consumer: Option<ConsumerId>) {
        if let Some(consumer) = consumer {
            self.consumers.release(consumer);
        }
    }

    /// Counts an exchange that was answered, or says why it is not counted.
    fn account(&mut self, request: Request, status: u16, measured: &Measured) -> Account {
        let Request { method, found, consumer } = request;
        let refused = match method {
            None => Some(Cause::BadMethod),
            Some(Method::OPTIONS | Method::CONNECT) => Some(Cause::Excluded),
            Some(_) => None,
        };
        let confirms = if status == 404 || refused.is_some() { Settle::Drop } else { Settle::Confirm };
        let route = match found {
            None => Err(Cause::Excluded),
            Some(Found::Unmatched) => Err(Cause::Unmatched),
            Some(Found::TooLong) => Err(Cause::PathTooLong),
            Some(Found::NoRoom) if status == 404 => Err(Cause::Unmatched),
            Some(Found::NoRoom) => Err(Cause::OverRouteLimit),
            Some(Found::Route(route)) => Ok(route),
            Some(Found::Candidate(candidate)) => self
                .routes
                .settle(candidate, confirms)
                .ok_or(if status == 404 { Cause::Unmatched } else { Cause::OverRouteLimit }),
        };
        let (Some(method), None) = (method, refused) else {
            return Account { route: route.ok(), lost_to: refused };
        };
        let route = match route {
            Ok(route) => route,
            Err(cause) => return Account { route: None, lost_to: Some(cause) },
        };
        let identifier = consumer.and_then(|consumer| self.consumers.identifier(consumer));
        let text = self.routes.template(route).len() + identifier.map_or(0, str::len);
        match self.counters.count(Key { consumer, method, route, status }, text, measured) {
            Counted::NoRoom => {
                return Account { route: Some(route), lost_to: Some(Cause::OverCountLimit) };
            }
            Counted::First => self.note_call(method, route, status),
            Counted::Again => {}
        }
        if let Some(cumulative) = &mut self.cumulative {
            let path = self.routes.template(route).len();
            let counted = cumulative.count(cumulative::Key { route, method, status }, path, measured);
            self.ledger.cumulative_over_limit += u64::from(!counted);
        }
        #[cfg(test)]
        self.reported.push(describe(method, self.routes.template(route), status, measured));
        Account { route: Some(route), lost_to: None }
    }

    /// A method that the server refuses (405) or does not know (501) is none that may be called. 404 does not tell:
    /// routers such as Express's answer so to any method that a path does not have.
    fn note_call(&mut self, method: Method, route: RouteId, status: u16) {
        let may_be_called = method != Method::HEAD && !matches!(status, 404 | 405 | 501);
        if may_be_called && self.called.len() < MAX_CALLED && !self.called.contains(&(method, route)) {
            self.called.push((method, route));
            let template = self.routes.template(route);
            let is_declared = |endpoint: &Endpoint| {
                endpoint.method == Some(method) && endpoint.pattern.template() == template
            };
            if !self.routes.declared().endpoints().iter().any(is_declared) {
                self.generation += 1;
            }
        }
    }
}

#[cfg(test)]
fn describe(method: Method, template: &str, status: u16, measured: &Measured) -> String {
    let size = |size: Option<u64>| size.map_or("?".to_owned(), |size| format!("{size}B"));
    format!(
        "{} {template} {status} {}ms {}>{}",
        method.as_str(),
        measured.response_time.as_millis(),
        size(measured.request_size),
        size(measured.response_size),
    )
}
