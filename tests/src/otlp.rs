//! Reads OTLP's protobuf into JSON: what a collector sees of what the agent sends.
//!
//! Made from the field numbers in the published `.proto` files, with no code in common with what the agent encodes
//! with, so that both would have to be wrong in the same way. Field names are those of the `.proto` files; attributes
//! become one object; ids become hexadecimal digits; byte values become `{"bytes": "hexadecimal"}`. What is not in the
//! tables below is an error, as is a repeated attribute: nothing that the agent sends should go unread.

use std::{fmt::Write as _, io::Read as _};

use serde_json::{Map, Value, json};

/// What is exported: the last segment of the path that it is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    Traces,
    Logs,
    Metrics,
}

/// Reads the body of an export request.
///
/// # Errors
/// Where it is no such message, in words.
pub fn decode(signal: Signal, bytes: &[u8]) -> Result<Value, String> {
    message(
        bytes,
        match signal {
            Signal::Traces => TRACES,
            Signal::Logs => LOGS,
            Signal::Metrics => METRICS,
        },
    )
}

/// Undoes `Content-Encoding: gzip`.
///
/// # Errors
/// When it is no gzip, in words.
pub fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_end(&mut plain)
        .map_err(|error| format!("not gzip: {error}"))?;
    Ok(plain)
}

/// All data points of a metric in decoded export requests, in order.
pub fn points<'a>(requests: impl IntoIterator<Item = &'a Value>, metric: &str) -> Vec<&'a Value> {
    let metrics = requests
        .into_iter()
        .flat_map(|request| items(request, "resource_metrics"))
        .flat_map(|resource| items(resource, "scope_metrics"))
        .flat_map(|scope| items(scope, "metrics"))
        .filter(|known| known["name"] == metric);
    metrics
        .flat_map(|known| {
            ["gauge", "exponential_histogram"].into_iter().flat_map(|kind| items(&known[kind], "data_points"))
        })
        .collect()
}

/// All spans in decoded export requests, in order.
pub fn spans<'a>(requests: impl IntoIterator<Item = &'a Value>) -> Vec<&'a Value> {
    requests
        .into_iter()
        .flat_map(|request| items(request, "resource_spans"))
        .flat_map(|resource| items(resource, "scope_spans"))
        .flat_map(|scope| items(scope, "spans"))
        .collect()
}

/// All log records in decoded export requests, in order.
pub fn log_records<'a>(requests: impl IntoIterator<Item = &'a Value>) -> Vec<&'a Value> {
    requests
        .into_iter()
        .flat_map(|request| items(request, "resource_logs"))
        .flat_map(|resource| items(resource, "scope_logs"))
        .flat_map(|scope| items(scope, "log_records"))
        .collect()
}

fn items<'a>(value: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    value[list].as_array().into_iter().flatten()
}

/// Values in the buckets of a point of an exponential histogram: index of the bucket and count, empty ones left out.
pub fn buckets(point: &Value) -> Vec<(i64, u64)> {
    let first = point["positive"]["offset"].as_i64().unwrap_or(0);
    let counts = items(&point["positive"], "bucket_counts").map(|count| count.as_u64().unwrap_or(0));
    (first..).zip(counts).filter(|(_, count)| *count > 0).collect()
}

/// How a field is encoded, and what it becomes.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// Hexadecimal digits.
    Id,
    /// Varints.
    Unsigned,
    Signed,
    Zigzag,
    Bool,
    Double,
    Fixed32,
    Fixed64,
    /// Eight bytes, signed.
    Sfixed64,
    /// Varints in a row.
    Packed,
    Message(Table),
    /// A list.
    Repeated(Table),
    /// Key and value, which become a member of an object.
    Attributes,
    /// One of many kinds.
    Any,
}

type Table = &'static [(u64, &'static str, Kind)];

const TRACES: Table = &[(1, "resource_spans", Kind::Repeated(RESOURCE_SPANS))];
const LOGS: Table = &[(1, "resource_logs", Kind::Repeated(RESOURCE_LOGS))];
const METRICS: Table = &[(1, "resource_metrics", Kind::Repeated(RESOURCE_METRICS))];

const RESOURCE_SPANS: Table = &[
    (1, "resource", Kind::Message(RESOURCE)),
    (2, "scope_spans", Kind::Repeated(SCOPE_SPANS)),
    (3, "schema_url", Kind::Text),
];
const RESOURCE_LOGS: Table = &[
    (1, "resource", Kind::Message(RESOURCE)),
    (2, "scope_logs", Kind::Repeated(SCOPE_LOGS)),
    (3, "schema_url", Kind::Text),
];
const RESOURCE_METRICS: Table = &[
    (1, "resource", Kind::Message(RESOURCE)),
    (2, "scope_metrics", Kind::Repeated(SCOPE_METRICS)),
    (3, "schema_url", Kind::Text),
];
const RESOURCE: Table = &[(1, "attributes", Kind::Attributes)];
const SCOPE: Table =
    &[(1, "name", Kind::Text), (2, "version", Kind::Text), (3, "attributes", Kind::Attributes)];
const SCOPE_SPANS: Table =
    &[(1, "scope", Kind::Message(SCOPE)), (2, "spans", Kind::Repeated(SPAN)), (3, "schema_url", Kind::Text)];
const SCOPE_LOGS: Table = &[
    (1, "scope", Kind::Message(SCOPE)),
    (2, "log_records", Kind::Repeated(LOG_RECORD)),
    (3, "schema_url", Kind::Text),
];
const SCOPE_METRICS: Table = &[
    (1, "scope", Kind::Message(SCOPE)),
    (2, "metrics", Kind::Repeated(METRIC)),
    (3, "schema_url", Kind::Text),
];
const SPAN: Table = &[
    (1, "trace_id", Kind::Id),
    (2, "span_id", Kind::Id),
    (3, "trace_state", Kind::Text),
    (4, "parent_span_id", Kind::Id),
    (5, "name", Kind::Text),
    (6, "kind", Kind::Signed),
    (7, "start_time_unix_nano", Kind::Fixed64),
    (8, "end_time_unix_nano", Kind::Fixed64),
    (9, "attributes", Kind::Attributes),
    (11, "events", Kind::Repeated(EVENT)),
    (15, "status", Kind::Message(STATUS)),
    (16, "flags", Kind::Fixed32),
];
const EVENT: Table =
    &[(1, "time_unix_nano", Kind::Fixed64), (2, "name", Kind::Text), (3, "attributes", Kind::Attributes)];
const STATUS: Table = &[(2, "message", Kind::Text), (3, "code", Kind::Signed)];
const LOG_RECORD: Table = &[
    (1, "time_unix_nano", Kind::Fixed64),
    (2, "severity_number", Kind::Signed),
    (3, "severity_text", Kind::Text),
    (5, "body", Kind::Any),
    (6, "attributes", Kind::Attributes),
    (8, "flags", Kind::Fixed32),
    (9, "trace_id", Kind::Id),
    (10, "span_id", Kind::Id),
    (11, "observed_time_unix_nano", Kind::Fixed64),
    (12, "event_name", Kind::Text),
];
const METRIC: Table = &[
    (1, "name", Kind::Text),
    (2, "description", Kind::Text),
    (3, "unit", Kind::Text),
    (5, "gauge", Kind::Message(&[(1, "data_points", Kind::Repeated(NUMBER_POINT))])),
    (
        10,
        "exponential_histogram",
        Kind::Message(&[
            (1, "data_points", Kind::Repeated(EXPONENTIAL_POINT)),
            (2, "aggregation_temporality", Kind::Signed),
        ]),
    ),
];
const NUMBER_POINT: Table = &[
    (2, "start_time_unix_nano", Kind::Fixed64),
    (3, "time_unix_nano", Kind::Fixed64),
    (4, "as_double", Kind::Double),
    (6, "as_int", Kind::Sfixed64),
    (7, "attributes", Kind::Attributes),
];
const EXPONENTIAL_POINT: Table = &[
    (1, "attributes", Kind::Attributes),
    (2, "start_time_unix_nano", Kind::Fixed64),
    (3, "time_unix_nano", Kind::Fixed64),
    (4, "count", Kind::Fixed64),
    (5, "sum", Kind::Double),
    (6, "scale", Kind::Zigzag),
    (7, "zero_count", Kind::Fixed64),
    (8, "positive", Kind::Message(BUCKETS)),
    (9, "negative", Kind::Message(BUCKETS)),
    (10, "flags", Kind::Unsigned),
    (12, "min", Kind::Double),
    (13, "max", Kind::Double),
];
const BUCKETS: Table = &[(1, "offset", Kind::Zigzag), (2, "bucket_counts", Kind::Packed)];

fn message(mut bytes: &[u8], table: Table) -> Result<Value, String> {
    let mut object = Map::new();
    while !bytes.is_empty() {
        let (number, wire) = next_field(&mut bytes)?;
        let Some((_, name, kind)) = table.iter().find(|(known, ..)| *known == number) else {
            let known: Vec<_> = table.iter().map(|(_, name, _)| *name).collect();
            return Err(format!("unknown field {number} beside {known:?}"));
        };
        let add = |object: &mut Map<String, Value>| match *kind {
            Kind::Repeated(table) => {
                let item = message(wire.bytes()?, table)?;
                let list = object.entry(*name).or_insert_with(|| json!([]));
                list.as_array_mut().ok_or("mixed kinds")?.push(item);
                Ok(())
            }
            Kind::Attributes => {
                let (key, value) = key_value(wire.bytes()?)?;
                let members = object.entry(*name).or_insert_with(|| json!({}));
                match members.as_object_mut().ok_or("mixed kinds")?.insert(key.clone(), value) {
                    None => Ok(()),
                    Some(_) => Err(format!("attribute {key} is there twice")),
                }
            }
            kind => {
                object.insert((*name).to_owned(), scalar(wire, kind)?);
                Ok::<(), String>(())
            }
        };
        add(&mut object).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(Value::Object(object))
}

fn scalar(wire: Wire<'_>, kind: Kind) -> Result<Value, String> {
    Ok(match kind {
        Kind::Text => text(wire.bytes()?)?.into(),
        Kind::Id => hexadecimal(wire.bytes()?).into(),
        Kind::Unsigned => wire.varint()?.into(),
        Kind::Signed => wire.varint()?.cast_signed().into(),
        Kind::Zigzag => zigzag(wire.varint()?).into(),
        Kind::Bool => (wire.varint()? != 0).into(),
        Kind::Double => f64::from_bits(wire.fixed64()?).into(),
        Kind::Fixed64 => wire.fixed64()?.into(),
        Kind::Sfixed64 => wire.fixed64()?.cast_signed().into(),
        Kind::Fixed32 => match wire {
            Wire::Fixed32(value) => value.into(),
            other => return Err(format!("four bytes expected, not {other:?}")),
        },
        Kind::Packed => {
            let mut bytes = wire.bytes()?;
            let mut list = Vec::new();
            while !bytes.is_empty() {
                list.push(Value::from(next_varint(&mut bytes)?));
            }
            list.into()
        }
        Kind::Message(table) => message(wire.bytes()?, table)?,
        Kind::Any => any_value(wire.bytes()?)?,
        Kind::Repeated(_) | Kind::Attributes => return Err("more than one value expected".to_owned()),
    })
}

fn key_value(mut bytes: &[u8]) -> Result<(String, Value), String> {
    let (mut key, mut value) = (String::new(), Value::Null);
    while !bytes.is_empty() {
        match next_field(&mut bytes)? {
            (1, wire) => text(wire.bytes()?)?.clone_into(&mut key),
            (2, wire) => value = any_value(wire.bytes()?)?,
            (number, _) => return Err(format!("unknown field {number} of an attribute")),
        }
    }
    Ok((key, value))
}

fn any_value(mut bytes: &[u8]) -> Result<Value, String> {
    let mut value = Value::Null;
    while !bytes.is_empty() {
        value = match next_field(&mut bytes)? {
            (1, wire) => scalar(wire, Kind::Text)?,
            (2, wire) => scalar(wire, Kind::Bool)?,
            (3, wire) => scalar(wire, Kind::Signed)?,
            (4, wire) => scalar(wire, Kind::Double)?,
            (5, wire) => {
                let mut values = Vec::new();
                let mut bytes = wire.bytes()?;
                while !bytes.is_empty() {
                    let (_, wire) = next_field(&mut bytes)?;
                    values.push(any_value(wire.bytes()?)?);
                }
                values.into()
            }
            (6, wire) => {
                let mut members = Map::new();
                let mut bytes = wire.bytes()?;
                while !bytes.is_empty() {
                    let (_, wire) = next_field(&mut bytes)?;
                    members.extend([key_value(wire.bytes()?)?]);
                }
                members.into()
            }
            (7, wire) => json!({ "bytes": hexadecimal(wire.bytes()?) }),
            (number, _) => return Err(format!("unknown kind {number} of value")),
        };
    }
    Ok(value)
}

/// A field's content: <https://protobuf.dev/programming-guides/encoding/>.
#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn varint(self) -> Result<u64, String> {
        if let Self::Varint(value) = self { Ok(value) } else { Err(format!("varint expected, not {self:?}")) }
    }

    fn fixed64(self) -> Result<u64, String> {
        if let Self::Fixed64(value) = self {
            Ok(value)
        } else {
            Err(format!("eight bytes expected, not {self:?}"))
        }
    }

    fn bytes(self) -> Result<&'a [u8], String> {
        if let Self::Bytes(value) = self { Ok(value) } else { Err(format!("length expected, not {self:?}")) }
    }
}

fn next_field<'a>(bytes: &mut &'a [u8]) -> Result<(u64, Wire<'a>), String> {
    let tag = next_varint(bytes)?;
    let wire = match tag & 7 {
        0 => Wire::Varint(next_varint(bytes)?),
        1 => Wire::Fixed64(u64::from_le_bytes(take(bytes, 8)?.try_into().expect("as asked for"))),
        2 => {
            let len = usize::try_from(next_varint(bytes)?).map_err(|error| error.to_string())?;
            Wire::Bytes(take(bytes, len)?)
        }
        5 => Wire::Fixed32(u32::from_le_bytes(take(bytes, 4)?.try_into().expect("as asked for"))),
        other => return Err(format!("unknown wire type {other}")),
    };
    Ok((tag >> 3, wire))
}

fn next_varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("varint without an end".to_owned())
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Result<&'a [u8], String> {
    let (taken, rest) = bytes.split_at_checked(len).ok_or("cut off")?;
    *bytes = rest;
    Ok(taken)
}

fn zigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

fn text(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|error| error.to_string())
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes it all");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_log_record_made_by_hand() {
        // resource_logs { scope_logs { scope { name: "x" } log_records { time: 2, body: { "k": -1 }, event_name: "e" } } }
        let bytes = [
            &[0x0a, 0x2b, 0x12, 0x29, 0x0a, 0x03, 0x0a, 0x01, b'x', 0x12, 0x22][..],
            &[0x09, 2, 0, 0, 0, 0, 0, 0, 0],
            &[0x2a, 0x14, 0x32, 0x12, 0x0a, 0x10, 0x0a, 0x01, b'k', 0x12, 0x0b, 0x18],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x62, 0x01, b'e'],
        ]
        .concat();
        let want = json!({"resource_logs": [{"scope_logs": [{
            "scope": {"name": "x"},
            "log_records": [{"time_unix_nano": 2, "body": {"k": -1}, "event_name": "e"}],
        }]}]});
        assert_eq!(decode(Signal::Logs, &bytes), Ok(want));
        assert!(decode(Signal::Logs, &bytes[..20]).is_err());
        assert!(decode(Signal::Traces, &bytes).is_err());
    }

    #[test]
    fn reads_what_is_signed() {
        assert_eq!([0, 1, 2, 149].map(zigzag), [0, -1, 1, -75]);
    }

    #[test]
    fn buckets_begin_at_the_offset() {
        let point = json!({"positive": {"offset": -3, "bucket_counts": [1, 0, 2]}});
        assert_eq!(buckets(&point), [(-3, 1), (-1, 2)]);
        assert_eq!(buckets(&json!({"zero_count": 1})), []);
    }
}
