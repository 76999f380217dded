//! Small parts of OTLP's messages: times, attributes, values.

use std::time::SystemTime;

use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value,
};

/// Everything that the agent says has this scope; Apitally looks for it.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope { name: "apitally".to_owned(), ..InstrumentationScope::default() }
}

/// Nanoseconds since 1970; a clock before it counts as 1970.
pub fn unix_nanos(time: SystemTime) -> u64 {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX)
}

pub fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(any(value)), ..KeyValue::default() }
}

pub fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

/// More than the type holds is its largest number.
pub fn integer(key: &str, value: u64) -> KeyValue {
    attribute(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

pub fn any(value: Value) -> AnyValue {
    AnyValue { value: Some(value) }
}

pub fn object(members: Vec<KeyValue>) -> Value {
    Value::KvlistValue(KeyValueList { values: members })
}

/// The first so many characters of a text.
pub fn cut(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}
