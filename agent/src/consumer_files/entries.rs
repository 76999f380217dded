//! TOML, JSON and CSV -> names of consumers.
//!
//! Each entry has an `identifier`, and a `name`, a `group` or both. What is read goes straight into the table, so that
//! a fault is told with its place, and no secret lives longer than its line.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::line_of;
use crate::pipeline::consumer::{Key, NameTable};

/// What is wrong, and in which line.
#[derive(Debug)]
pub struct Fault {
    pub line: usize,
    pub what: String,
}

const UNKNOWN_KEY: &str = "there is a key here that is none of identifier, name and group";

/// `[[consumer]]` with the keys of an entry.
pub fn read_toml(text: &str, key: &Key) -> Result<NameTable, Fault> {
    let fault = |error: toml::de::Error| Fault {
        line: line_of(text.as_bytes(), error.span().map_or(0, |span| span.start)),
        what: without_values(error.message()),
    };
    let mut table = NameTable::default();
    let document = toml::Deserializer::parse(text).map_err(fault)?;
    Document(Entries { key, table: &mut table }).deserialize(document).map_err(fault)?;
    Ok(table)
}

/// A list of objects with the keys of an entry.
pub fn read_json(text: &str, key: &Key) -> Result<NameTable, Fault> {
    let fault = |error: serde_json::Error| {
        let what = error.to_string();
        let what = what.rsplit_once(" at line ").map_or(what.as_str(), |(what, _)| what);
        Fault { line: error.line().max(1), what: without_values(what) }
    };
    let mut table = NameTable::default();
    let mut json = serde_json::Deserializer::from_str(text);
    Entries { key, table: &mut table }.deserialize(&mut json).map_err(fault)?;
    json.end().map_err(fault)?;
    Ok(table)
}

/// The first line names the columns, in any order.
pub fn read_csv(text: &str, key: &Key) -> Result<NameTable, Fault> {
    let mut table = NameTable::default();
    let mut rows = csv::ReaderBuilder::new().flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    let fault = |line: u64, what: &str| Fault {
        line: usize::try_from(line).unwrap_or(usize::MAX),
        what: what.to_owned(),
    };
    let unreadable =
        |error: csv::Error| fault(error.position().map_or(1, csv::Position::line), "this is no CSV");
    let columns = rows.headers().map_err(unreadable)?.clone();
    let column = |name: &str| columns.iter().position(|column| column.eq_ignore_ascii_case(name));
    if columns
        .iter()
        .any(|column| !["identifier", "name", "group"].iter().any(|known| column.eq_ignore_ascii_case(known)))
    {
        return Err(fault(1, "there is a column that is none of identifier, name and group"));
    }
    let Some(identifier) = column("identifier") else {
        return Err(fault(1, "the first line must name the columns: identifier,name,group"));
    };
    let (name, group) = (column("name"), column("group"));
    let mut row = csv::StringRecord::new();
    while rows.read_record(&mut row).map_err(unreadable)? {
        let line = row.position().map_or(1, csv::Position::line);
        if row.len() > columns.len() {
            return Err(fault(
                line,
                "there are more fields than columns; a value with a comma needs quotes around it",
            ));
        }
        let field = |column: Option<usize>| column.and_then(|column| row.get(column)).unwrap_or_default();
        table
            .insert(key, field(Some(identifier)), field(name), field(group))
            .map_err(|error| fault(line, &error.to_string()))?;
    }
    Ok(table)
}

/// Where another type was expected, serde shows what is there instead.
fn without_values(message: &str) -> String {
    match message.rsplit_once(", expected ") {
        Some((saw, wanted)) if saw.starts_with("invalid ") => format!("expected {wanted} here"),
        _ => message.to_owned(),
    }
}

/// A table with the one key `consumer`.
struct Document<'a>(Entries<'a>);

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[[consumer]]")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut document: A) -> Result<(), A::Error> {
        let Self(Entries { key, table }) = self;
        while let Some(name) = document.next_key::<String>()? {
            if name != "consumer" {
                return Err(A::Error::custom("there is something here other than [[consumer]]"));
            }
            document.next_value_seed(Entries { key, table })?;
        }
        Ok(())
    }
}

/// A list of entries, which go into the table.
struct Entries<'a> {
    key: &'a Key,
    table: &'a mut NameTable,
}

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of consumers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Self { key, table } = self;
        while entries.next_element_seed(Entry { key, table })?.is_some() {}
        Ok(())
    }
}

struct Entry<'a> {
    key: &'a Key,
    table: &'a mut NameTable,
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a consumer with the keys identifier, name and group")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entry: A) -> Result<(), A::Error> {
        let (mut identifier, mut name, mut group) = (None, None, None);
        while let Some(key) = entry.next_key::<String>()? {
            let place = match key.as_str() {
                "identifier" => &mut identifier,
                "name" => &mut name,
                "group" => &mut group,
                _ => return Err(A::Error::custom(UNKNOWN_KEY)),
            };
            if place.replace(entry.next_value_seed(Text)?).is_some() {
                return Err(A::Error::custom("a key is there twice"));
            }
        }
        let [identifier, name, group] = [identifier, name, group].map(Option::unwrap_or_default);
        self.table.insert(self.key, &identifier, &name, &group).map_err(A::Error::custom)
    }
}

/// Text, or nothing. What else is there is not shown, as serde would.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text in quotes")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_unit<E>(self) -> Result<String, E> {
        Ok(String::new())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<String, E> {
        Err(no_text())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<String, E> {
        Err(no_text())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<String, E> {
        Err(no_text())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<String, E> {
        Err(no_text())
    }
}

fn no_text<E: Error>() -> E {
    E::custom("a value is no text; put it in quotes")
}
