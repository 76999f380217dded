//! One line of the hub's request log (hub protocol, section 11.2), in Python's spelling.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Serialize;
use uuid::Uuid;

use crate::pipeline::{Ktime, detail::Logged};

use super::{
    masked::{Masked, MaskedMessage},
    trace::TraceContext,
};

/// Longest route template that the hub takes, characters.
const MAX_PATH: usize = 2048;

/// One exchange, masked. What an agent outside the process cannot know is not there: exceptions, logs, spans.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Item {
    pub uuid: Uuid,
    pub request: RequestItem,
    pub response: ResponseItem,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RequestItem {
    /// When the request's head was complete, Unix seconds.
    pub timestamp: f64,
    pub method: String,
    /// Route template; absent when the path matched none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    pub url: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Bytes of the body; absent when unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// In base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResponseItem {
    pub status_code: u16,
    /// Seconds, as in the metrics.
    pub response_time: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// The same moment by two clocks, which turns times of the one into times of the other.
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    pub wall: SystemTime,
    pub ktime: Ktime,
}

impl WallClock {
    /// When that was, or when it will be, since 1970.
    pub fn at(&self, time: Ktime) -> Duration {
        let now = self.wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(self.ktime.since(time)) + time.since(self.ktime)
    }
}

impl Item {
    /// Under a new identity; a line that is sent again is part of the same file.
    pub fn new(logged: &Logged, masked: Masked, clock: &WallClock) -> Self {
        let Masked { url, request, response } = masked;
        Self {
            uuid: Uuid::new_v4(),
            request: RequestItem {
                timestamp: clock.at(logged.head_received).as_secs_f64(),
                method: logged.method.map(|method| method.as_str().to_owned()).unwrap_or_default(),
                path: logged.route.clone().filter(|path| path.len() <= MAX_PATH),
                url: url.to_string(),
                body: body(&request),
                headers: request.headers,
                size: logged.request_size,
                consumer: logged.consumer.clone(),
            },
            response: ResponseItem {
                status_code: logged.status,
                response_time: logged.response_time.as_secs_f64(),
                body: body(&response),
                headers: response.headers,
                size: logged.response_size,
            },
            trace_id: TraceContext::of(&logged.request).map(|trace| trace.trace_id),
        }
    }
}

fn body(message: &MaskedMessage) -> Option<String> {
    message.body.as_ref().map(|body| BASE64_STANDARD.encode(body))
}
