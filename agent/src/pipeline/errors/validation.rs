//! What was wrong with a request, out of the body of its response. Each framework has its own way to say it.

use serde_json::{Map, Value};

/// One thing that was wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ValidationError {
    /// Which part of the request, then names and indexes, as far as the body says it.
    pub location: Vec<String>,
    pub message: String,
    /// The framework's name for the rule that was broken; may be empty.
    pub kind: String,
}

impl ValidationError {
    fn new(location: Vec<String>, message: &str, kind: &str) -> Self {
        Self { location, message: message.to_owned(), kind: kind.to_owned() }
    }

    /// Bytes of its texts.
    pub fn text(&self) -> usize {
        self.location.iter().map(|part| part.len() + size_of::<String>()).sum::<usize>()
            + self.message.len()
            + self.kind.len()
    }
}

/// Most errors of one body, and most bytes of their texts: few of a body's bytes may be a place that many errors share.
const MAX_ERRORS: usize = 1000;
const MAX_TEXT: usize = 1024 * 1024;

/// The errors of a body. Those beyond a bound are only counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub errors: Vec<ValidationError>,
    pub dropped: u64,
    text: usize,
}

impl Found {
    fn push(&mut self, error: impl FnOnce() -> Option<ValidationError>) {
        if self.errors.len() >= MAX_ERRORS || self.text > MAX_TEXT {
            self.dropped += 1;
        } else if let Some(error) = error() {
            self.text = self.text.saturating_add(error.text());
            self.errors.push(error);
        }
    }

    /// What `read` makes of the items of a list; nothing of what is no list.
    fn push_each(&mut self, list: Option<&Value>, read: impl Fn(&Value) -> Option<ValidationError>) {
        list.and_then(Value::as_array).into_iter().flatten().for_each(|item| self.push(|| read(item)));
    }
}

/// Reads bodies of one shape.
type Shape = fn(&Value, &mut Found);

/// The errors that a body lists; none when it is in no shape that is known. `has_allow`: see [`rest_framework`].
pub fn read(status: u16, has_allow: bool, body: &Value) -> Found {
    let shapes: [(bool, Shape); 10] = [
        (status == 422, pydantic),
        (status == 400, litestar),
        (true, zod),
        (true, listed),
        (true, by_field),
        (true, celebrate),
        (true, nest),
        (true, fastify),
        (true, invalid_params),
        (status == 400 && has_allow, rest_framework),
    ];
    for (_, shape) in shapes.iter().filter(|(applies, _)| *applies) {
        let mut found = Found::default();
        shape(body, &mut found);
        if !found.errors.is_empty() {
            return found;
        }
    }
    Found::default()
}

/// FastAPI and Django Ninja: `detail[] {loc[], msg, type}`.
fn pydantic(body: &Value, found: &mut Found) {
    found.push_each(body.get("detail"), |error| {
        let location = error.get("loc")?.as_array()?.iter().map(part).collect();
        Some(ValidationError::new(location, text(error, "msg")?, text(error, "type")?))
    });
}

/// Litestar: a `detail` that speaks of validation, and `extra[] {message, key?, source?}`.
fn litestar(body: &Value, found: &mut Found) {
    if !text(body, "detail").is_some_and(|detail| detail.to_ascii_lowercase().contains("validation")) {
        return;
    }
    found.push_each(body.get("extra"), |error| {
        let source = text(error, "source").unwrap_or("body");
        let location = std::iter::once(source).chain(dotted(text(error, "key").unwrap_or_default()));
        Some(ValidationError::new(owned(location), text(error, "message")?, ""))
    });
}

/// zod, as Hono's validator answers: `success: false` and an `error` that is a ZodError: `issues[] {path[], message,
/// code}`, which zod 4 hides as JSON in the error's `message`.
fn zod(body: &Value, found: &mut Found) {
    let error = body.get("error").filter(|error| text(error, "name") == Some("ZodError"));
    let Some(error) = error.filter(|_| body.get("success") == Some(&Value::Bool(false))) else {
        return;
    };
    let hidden: Option<Value> = text(error, "message").and_then(|text| serde_json::from_str(text).ok());
    found.push_each(error.get("issues").or(hidden.as_ref()), |issue| {
        let location = issue.get("path")?.as_array()?.iter().map(part).collect();
        Some(ValidationError::new(location, text(issue, "message")?, text(issue, "code").unwrap_or_default()))
    });
}

/// `errors[]`, of which each item is in one of four shapes.
fn listed(body: &Value, found: &mut Found) {
    found.push_each(body.get("errors"), |error| {
        express_validator(error)
            .or_else(|| spring(error))
            .or_else(|| adonis(error))
            .or_else(|| problem(error))
    });
}

/// express-validator: `{location, path, msg, type}`.
fn express_validator(error: &Value) -> Option<ValidationError> {
    let location = std::iter::once(text(error, "location")?).chain(dotted(text(error, "path")?));
    Some(ValidationError::new(owned(location), text(error, "msg")?, text(error, "type").unwrap_or_default()))
}

/// Spring Boot, where binding errors are included: `{objectName, field?, defaultMessage, code}`.
fn spring(error: &Value) -> Option<ValidationError> {
    let message = text(error, "defaultMessage")?;
    let location =
        text(error, "objectName").into_iter().chain(dotted(text(error, "field").unwrap_or_default()));
    Some(ValidationError::new(owned(location), message, text(error, "code")?))
}

/// AdonisJS, VineJS: `{field, message, rule}`. Query, body and parameters are validated as one, so nothing says which
/// of them it was.
fn adonis(error: &Value) -> Option<ValidationError> {
    let location = owned(dotted(text(error, "field")?));
    Some(ValidationError::new(location, text(error, "message")?, text(error, "rule")?))
}

/// RFC 9457 section 3, `{detail, pointer}`, and JSON:API, `{detail, source: {pointer | parameter | header}, code}`.
fn problem(error: &Value) -> Option<ValidationError> {
    let source = error.get("source").unwrap_or(error);
    let location = if let Some(pointer) = text(source, "pointer") {
        std::iter::once("body".to_owned()).chain(json_pointer(pointer)).collect()
    } else {
        let named =
            |kind: &str, field| text(source, field).map(|name| vec![kind.to_owned(), name.to_owned()]);
        named("query", "parameter").or_else(|| named("header", "header"))?
    };
    let message = text(error, "detail").or_else(|| text(error, "title"))?;
    Some(ValidationError::new(location, message, text(error, "code").unwrap_or_default()))
}

/// ASP.NET Core's ValidationProblemDetails, and others: `errors {field: message[]}`.
fn by_field(body: &Value, found: &mut Found) {
    let Some(fields) = body.get("errors").and_then(Value::as_object) else { return };
    if !fields.values().all(|messages| texts(messages).is_some()) {
        return;
    }
    for (field, messages) in fields {
        for message in texts(messages).into_iter().flatten() {
            found.push(|| Some(ValidationError::new(owned(dotted(field)), message, "")));
        }
    }
}

/// celebrate, with Joi: `validation {segment: {source, keys[], message}}`.
fn celebrate(body: &Value, found: &mut Found) {
    let segments = body.get("validation").and_then(Value::as_object);
    for segment in segments.into_iter().flat_map(Map::values) {
        if let (Some(source), Some(message)) = (text(segment, "source"), text(segment, "message")) {
            found.push_each(segment.get("keys"), |key| {
                Some(ValidationError::new(owned([source, key.as_str()?]), message, ""))
            });
        }
    }
}

/// NestJS: `message[]`, texts without a place.
fn nest(body: &Value, found: &mut Found) {
    for message in body.get("message").and_then(texts).into_iter().flatten() {
        found.push(|| Some(ValidationError::new(Vec::new(), message, "")));
    }
}

/// Fastify, with Ajv: one `message`, in which each error begins with its place: `body/name must be string, …`.
fn fastify(body: &Value, found: &mut Found) {
    let is_its_code = body.get("code").is_none_or(|code| code == "FST_ERR_VALIDATION" || code.is_null());
    let Some(message) = text(body, "message").filter(|_| is_its_code) else { return };
    let starts = std::iter::once(0).chain(message.match_indices(", ").map(|(at, comma)| at + comma.len()));
    let rest = |start: usize| message.get(start..).unwrap_or_default();
    let starts: Vec<usize> = starts.filter(|start| ajv_place(rest(*start)).is_some()).collect();
    let ends = starts.iter().skip(1).map(|start| start - ", ".len()).chain([message.len()]);
    for (&start, end) in starts.iter().zip(ends) {
        let error = message.get(start..end).unwrap_or_default();
        found.push(|| Some(ValidationError::new(ajv_place(error)?, error, "")));
    }
}

/// Where in the request, when `text` begins with it: a source, a separator, a path, a space.
fn ajv_place(text: &str) -> Option<Vec<String>> {
    let (place, _) = text.split_once(' ')?;
    let mut parts = place.split(['/', '.']);
    let source = match parts.next()? {
        "querystring" => "query",
        source @ ("body" | "query" | "params" | "headers") => source,
        _ => return None,
    };
    let path: Vec<&str> = parts.collect();
    let has_path = path.iter().any(|part| !part.is_empty());
    has_path.then(|| owned(std::iter::once(source).chain(path)))
}

/// The problem document of RFC 7807 section 3: `invalid-params[] {name, reason}`.
fn invalid_params(body: &Value, found: &mut Found) {
    found.push_each(body.get("invalid-params"), |error| {
        Some(ValidationError::new(owned([text(error, "name")?]), text(error, "reason")?, ""))
    });
}

/// Django REST framework: `{field: message[]}`, in which a field may hold such an object again, or a list of them.
///
/// There is nothing around it that would tell it from another API's body, such as `{"ids": ["a", "b"]}`. But its views
/// send the field Allow with every response, as hardly anybody else does with a 400, and every leaf is a list of texts;
/// so both are asked for.
fn rest_framework(body: &Value, found: &mut Found) {
    if walk(body, &mut vec!["body".to_owned()], found).is_none() {
        *found = Found::default();
    }
}

/// None when something in it is neither a list of messages nor leads to one.
fn walk(value: &Value, location: &mut Vec<String>, found: &mut Found) -> Option<()> {
    if let Some(messages) = texts(value).filter(|_| location.len() > 1) {
        for message in messages {
            found.push(|| Some(ValidationError::new(location.clone(), message, "")));
        }
        return Some(());
    }
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(field, value)| (field.clone(), value)).collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect()
        }
        _ => return None,
    };
    for (name, child) in children {
        // Of a list each valid item is an empty object.
        if child.as_object().is_some_and(Map::is_empty) && value.is_array() {
            continue;
        }
        location.push(name);
        let result = walk(child, location, found);
        location.pop();
        result?;
    }
    Some(())
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

/// The items of a list that holds texts, at least one, and nothing else.
fn texts(value: &Value) -> Option<impl Iterator<Item = &str>> {
    let items = value.as_array().filter(|items| !items.is_empty() && items.iter().all(Value::is_string))?;
    Some(items.iter().filter_map(Value::as_str))
}

/// A name or an index, as text.
fn part(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The parts of `a.b`; none of nothing.
fn dotted(path: &str) -> impl Iterator<Item = &str> {
    path.split('.').filter(move |_| !path.is_empty())
}

fn owned<'a>(parts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    parts.into_iter().map(str::to_owned).collect()
}

/// The parts of a JSON Pointer (RFC 6901), in its plain form or as a fragment (section 6).
fn json_pointer(pointer: &str) -> impl Iterator<Item = String> {
    let (pointer, is_fragment) = match pointer.strip_prefix('#') {
        Some(fragment) => (fragment, true),
        None => (pointer, false),
    };
    pointer.split('/').skip(1).map(move |part| {
        let part = if is_fragment { percent_decoded(part) } else { part.to_owned() };
        part.replace("~1", "/").replace("~0", "~")
    })
}

fn percent_decoded(text: &str) -> String {
    let (mut decoded, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let value = digits.filter(|_| byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok());
        decoded.push(value.unwrap_or(byte));
        rest = if value.is_some() { behind.get(2..).unwrap_or_default() } else { behind };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests;
