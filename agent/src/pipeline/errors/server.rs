//! What went wrong in the server, out of the body of a 500.
//!
//! Most servers say nothing there, and then nothing is said. Some do while they are developed, and some always.

use serde_json::Value;

/// What a body says of an error.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerError {
    /// Name of the exception, or of the problem; at most [`MAX_KIND`] characters, may be empty.
    pub kind: String,
    /// At most [`MAX_MESSAGE`] characters; may be empty.
    pub message: String,
    /// At most [`MAX_TRACEBACK`] characters; may be empty.
    pub traceback: String,
}

/// Characters of a kind; a longer one is cut.
pub const MAX_KIND: usize = 256;

/// Characters of a message, what says that it was cut included.
pub const MAX_MESSAGE: usize = 2048;

/// Characters of a traceback, what says that it was cut included.
pub const MAX_TRACEBACK: usize = 65_536;

/// Behind a message that was cut.
const MESSAGE_CUT: &str = "... (truncated)";

/// Before a traceback that was cut: its end tells more than its beginning.
const TRACEBACK_CUT: &str = "... (truncated) ...\n";

/// What says no more than the status, in lower case.
const SAYING_NOTHING: [&str; 8] = [
    "internal server error",
    "internal error",
    "server error",
    "error",
    "an error occurred while processing your request",
    "something went wrong",
    "an unexpected error occurred",
    "unknown error",
];

impl ServerError {
    /// Bytes of its texts.
    pub fn text(&self) -> usize {
        self.kind.len() + self.message.len() + self.traceback.len()
    }
}

/// None when the body says no more than that there was an error.
///
/// Read are kind, message and stack under the names that error handlers give them, at the top or in an object `error`:
/// Express and others (`name`, `message`, `stack`), Fastify and NestJS (`code`, `message`), Spring (`exception`, `message`,
/// `trace`), Laravel (`exception`, `message`), ASP.NET Core (`exception.details`), problem documents (RFC 9457: `type`,
/// `title`, `detail`).
pub fn read(body: &Value) -> Option<ServerError> {
    let error = body.get("error").filter(|error| error.is_object()).unwrap_or(body);
    let details = error.get("exception").and_then(|exception| text(exception, "details"));
    let stack = details.or_else(|| text(error, "stack")).or_else(|| text(error, "trace")).unwrap_or_default();
    let (stack_kind, stack_message) = first_line(stack);
    let problem = problem_type(error);
    let title = problem.and_then(|_| text(error, "title"));
    let bare = text(body, "error");

    let messages = [details.and(stack_message), text(error, "message"), text(error, "detail"), bare, title];
    let message = messages.into_iter().chain([stack_message]).flatten().find_map(telling).unwrap_or_default();
    let traceback = stack.trim();
    let exception = text(error, "exception").map(simple_name).or(stack_kind.map(simple_name)).or(problem);
    // These two may be anything, where nothing beside them says that they are about an error.
    let named = text(error, "name").or_else(|| code(error));
    let named = named.filter(|_| !message.is_empty() || !traceback.is_empty());
    let kind =
        [exception, named].into_iter().flatten().find(|kind| telling(kind).is_some() || *kind == "Error");
    if message.is_empty() && traceback.is_empty() && kind.and_then(telling).is_none() {
        return None;
    }
    let kind = kind.unwrap_or_default().trim();
    Some(ServerError {
        kind: kind.chars().take(MAX_KIND).collect(),
        message: cut_end(message),
        traceback: cut_start(traceback),
    })
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

/// Trimmed, unless it says no more than the status.
fn telling(text: &str) -> Option<&str> {
    let text = text.trim();
    let words = text.trim_end_matches(['.', '!']).to_lowercase();
    (!words.is_empty() && !SAYING_NOTHING.contains(&words.as_str())).then_some(text)
}

/// The code that Node's errors have, such as `ECONNREFUSED`. A number is the status.
fn code(error: &Value) -> Option<&str> {
    text(error, "code").filter(|code| !code.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The type of a problem, if it is one of its own: not `about:blank`, and not a page that explains the status.
fn problem_type(error: &Value) -> Option<&str> {
    let explains_status =
        |uri: &str| uri.contains("/rfc") || uri.contains("httpstatus") || uri.contains("/HTTP/");
    text(error, "type").filter(|uri| *uri != "about:blank" && !explains_status(uri))
}

/// Exception and message, of a stack that begins with them: `java.lang.IllegalStateException: why`.
fn first_line(stack: &str) -> (Option<&str>, Option<&str>) {
    let line = stack.trim_start().lines().next().unwrap_or_default();
    let (name, message) = line.split_once(':').unwrap_or((line, ""));
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_alphabetic())
            && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '$'))
    };
    let name = Some(name.trim()).filter(|name| is_name(name));
    (name, name.and(Some(message.trim())))
}

/// The last part of a name with packages or namespaces in front, as the clients of those languages report it.
fn simple_name(name: &str) -> &str {
    let is_path = !name.contains(['/', ' ', ':']);
    if is_path { name.rsplit(['.', '\\', '$']).next().unwrap_or(name) } else { name }
}

/// The beginning, with a word behind it when it was cut.
fn cut_end(text: &str) -> String {
    if text.chars().nth(MAX_MESSAGE).is_none() {
        return text.to_owned();
    }
    let kept = text.chars().take(MAX_MESSAGE - MESSAGE_CUT.len());
    kept.chain(MESSAGE_CUT.chars()).collect()
}

/// The end, with a line before it when it was cut.
fn cut_start(text: &str) -> String {
    let count = text.chars().count();
    if count <= MAX_TRACEBACK {
        return text.to_owned();
    }
    let skipped = count - (MAX_TRACEBACK - TRACEBACK_CUT.len());
    TRACEBACK_CUT.chars().chain(text.chars().skip(skipped)).collect()
}

#[cfg(test)]
mod tests;
