//! What a declared path looks like: literals, parameters, and at most one parameter that takes several segments.
//!
//! People write patterns as their framework does. All notations mean the same here, and are reported in one:
//! `{name}`, with nothing of the converter.

use super::MAX_TEMPLATE;

/// Segments of one pattern; it bounds how deep a look-up goes.
pub const MAX_SEGMENTS: usize = 128;

/// A path with parameters in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    segments: Vec<Segment>,
    template: Box<str>,
}

/// What one segment of a path may be. Literals are percent-decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Literal(Box<str>),
    /// `report-{year}.{format}`: the literals around the parameters, first and last ones possibly empty. Each
    /// parameter takes a byte or more.
    Mixed(Vec<Box<str>>),
    Parameter(Kind),
    /// This segment and as many more as the segments behind it in the pattern leave.
    Rest,
}

/// What a parameter takes, of what is not empty. Converters that are not known take everything: they are the
/// app's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Any,
    /// `int`: digits.
    Integer,
    /// `float`: digits, perhaps with a point and more digits.
    Float,
    /// Hex digits as 8-4-4-4-12.
    Uuid,
    /// Letters, digits, `-` and `_`.
    Slug,
}

/// How parameters are told from literals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// `{name}` and nothing else; `:` and `*` are literals, as in `/v1/items/{id}:cancel`.
    OpenApi,
    /// `{name}`, `{name:conv}`, `{*rest}`, `<name>`, `<conv:name>`, `:name` or `*rest`.
    Any,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path {text:?} {fault}")]
pub struct PatternError {
    text: String,
    fault: Fault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("does not begin with a slash; write it like /items/{{id}}")]
    NoSlash,
    #[error("has a query or fragment at character {0}; write the path alone")]
    NotAlone(usize),
    #[error("has a blank or a control character at character {0}; write %20 for a blank")]
    Blank(usize),
    #[error("is longer than {MAX_TEMPLATE} bytes, or has more than {MAX_SEGMENTS} segments")]
    TooLong,
    #[error("opens a parameter at character {0} and does not close it; write it like {{id}}")]
    NotClosed(usize),
    #[error("closes a parameter at character {0} that was not opened; write it like {{id}}")]
    NotOpened(usize),
    #[error("has a parameter without a name at character {0}; write it like {{id}} or :id")]
    NoName(usize),
    #[error("has an optional parameter at character {0}; write two paths, one with it and one without")]
    Optional(usize),
    #[error("has an expression at character {0}; write the parameter alone, like {{id}}")]
    Expression(usize),
    #[error("has a {{name}} or <name> and a :name at character {0}; use one notation in a path")]
    TwoNotations(usize),
    #[error("has two parameters side by side at character {0}; nothing says where one ends")]
    SideBySide(usize),
    #[error(
        "has a parameter for several segments at character {0} that is not a whole segment or not the only one"
    )]
    Rest(usize),
}

impl Pattern {
    /// # Errors
    /// When it is no path, or a parameter in it cannot be read; says where.
    pub fn parse(text: &str, notation: Notation) -> Result<Self, PatternError> {
        let error = |fault| PatternError { text: text.chars().take(200).collect(), fault };
        let Some(path) = text.strip_prefix('/') else { return Err(error(Fault::NoSlash)) };
        if text.len() > MAX_TEMPLATE || path.split('/').count() > MAX_SEGMENTS {
            return Err(error(Fault::TooLong));
        }
        if let Some(at) = text.find(|letter: char| letter.is_whitespace() || letter.is_control()) {
            return Err(error(Fault::Blank(character(text, at))));
        }
        let mut parser = Parser { text, notation, template: String::new() };
        let mut segments = Vec::new();
        let mut at = 1;
        for segment in path.split('/') {
            parser.template.push('/');
            let parsed = parser.segment(segment, at).map_err(error)?;
            if parsed == Segment::Rest && segments.contains(&Segment::Rest) {
                return Err(error(Fault::Rest(character(text, at))));
            }
            segments.push(parsed);
            at += segment.len() + 1;
        }
        if parser.template.len() > MAX_TEMPLATE {
            return Err(error(Fault::TooLong));
        }
        Ok(Self { segments, template: parser.template.into() })
    }

    /// With `base` in front, which begins with a slash and does not end with one; empty for none.
    ///
    /// # Errors
    /// When `base` is no path, or the two together are too long.
    pub fn below(&self, base: &str) -> Result<Self, PatternError> {
        if base.is_empty() {
            return Ok(self.clone());
        }
        let base = Self::parse(base, Notation::OpenApi)?;
        let (segments, template) =
            ([&*base.segments, &*self.segments].concat(), format!("{}{}", base.template, self.template));
        if template.len() > MAX_TEMPLATE || segments.len() > MAX_SEGMENTS {
            return Err(PatternError { text: template.chars().take(200).collect(), fault: Fault::TooLong });
        }
        Ok(Self { segments, template: template.into() })
    }

    /// In the notation of reports: `/items/{id}`.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// Whether it has no parameter.
    pub fn is_literal(&self) -> bool {
        self.segments.iter().all(|segment| matches!(segment, Segment::Literal(_)))
    }

    /// What stands between its slashes.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl Segment {
    /// Whether a segment of a path can be this one. [`Segment::Rest`] takes anything.
    pub fn takes(&self, text: &str) -> bool {
        match self {
            Self::Literal(literal) => **literal == *text,
            Self::Mixed(literals) => takes_mixed(literals, text),
            Self::Parameter(kind) => kind.takes(text),
            Self::Rest => true,
        }
    }
}

impl Kind {
    pub fn takes(self, text: &str) -> bool {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match self {
            Self::Any => !text.is_empty(),
            Self::Integer => digits(text),
            Self::Float => match text.split_once('.') {
                Some((whole, fraction)) => digits(whole) && digits(fraction),
                None => digits(text),
            },
            Self::Uuid => super::segment::is_uuid(text.as_bytes()),
            Self::Slug => {
                let is_slug = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
                !text.is_empty() && text.bytes().all(is_slug)
            }
        }
    }

    /// By the names of Starlette, Django, Flask, Litestar and ASP.NET Core.
    fn of(converter: &str) -> Self {
        match converter {
            "int" | "long" => Self::Integer,
            "float" | "decimal" | "double" => Self::Float,
            "uuid" | "guid" => Self::Uuid,
            "slug" => Self::Slug,
            _ => Self::Any,
        }
    }
}

/// The first literal begins the text, the last one ends it, and the others follow each other between them with at
/// least a character in between. Taking the earliest place of each is right: it leaves most to those behind.
fn takes_mixed(literals: &[Box<str>], text: &str) -> bool {
    let [first, between @ .., last] = literals else { return false };
    let Some(mut rest) = text.strip_prefix(&**first) else { return false };
    for literal in between {
        let Some(parameter) = rest.chars().next() else { return false };
        let behind = rest.get(parameter.len_utf8()..).unwrap_or_default();
        let Some((_, left)) = behind.split_once(&**literal) else { return false };
        rest = left;
    }
    rest.strip_suffix(&**last).is_some_and(|parameter| !parameter.is_empty())
}

struct Parser<'a> {
    text: &'a str,
    notation: Notation,
    template: String,
}

/// Something that a segment is made of.
enum Piece<'a> {
    Literal(&'a str),
    Parameter { name: &'a str, kind: Kind, is_rest: bool },
}

impl Parser<'_> {
    /// `at` is where the segment begins in the text, bytes.
    fn segment(&mut self, segment: &str, at: usize) -> Result<Segment, Fault> {
        let place = |offset: usize| character(self.text, at + offset);
        let mut pieces = Vec::new();
        let mut position = 0;
        while position < segment.len() {
            let left = segment.get(position..).unwrap_or_default();
            let (piece, length) =
                self.piece(left, position == 0, &pieces).map_err(|fault| fault(place(position)))?;
            if let (Piece::Parameter { .. }, Some(Piece::Parameter { .. })) = (&piece, pieces.last()) {
                return Err(Fault::SideBySide(place(position)));
            }
            pieces.push(piece);
            position += length;
        }
        let is_rest = |piece: &Piece<'_>| matches!(piece, Piece::Parameter { is_rest: true, .. });
        if pieces.len() > 1 && pieces.iter().any(is_rest) {
            return Err(Fault::Rest(place(0)));
        }
        for piece in &pieces {
            match piece {
                Piece::Literal(text) => super::segment::push_literal(text, &mut self.template),
                Piece::Parameter { name, .. } => {
                    self.template.push('{');
                    super::segment::push_literal(name, &mut self.template);
                    self.template.push('}');
                }
            }
        }
        Ok(match pieces.as_slice() {
            [] => Segment::Literal("".into()),
            [Piece::Literal(text)] => Segment::Literal(decoded(text)),
            [Piece::Parameter { is_rest: true, .. }] => Segment::Rest,
            [Piece::Parameter { kind, .. }] => Segment::Parameter(*kind),
            mixed => Segment::Mixed(literals(mixed)),
        })
    }

    /// The piece that `left` begins with, and its length in bytes. A fault takes its place.
    fn piece<'b>(
        &self,
        left: &'b str,
        is_first: bool,
        before: &[Piece<'_>],
    ) -> Result<(Piece<'b>, usize), fn(usize) -> Fault> {
        let any = self.notation == Notation::Any;
        let braces = self.text.contains('{');
        let angles = any && !braces && self.text.contains('<');
        match left.as_bytes().first() {
            Some(b'{') => return in_braces(left, any),
            Some(b'}') => return Err(Fault::NotOpened),
            Some(b'<') if angles => return in_angles(left),
            Some(b'>') if angles => return Err(Fault::NotOpened),
            Some(b'*') if any && is_first => {
                let name = left.trim_start_matches('*');
                let name = if name.is_empty() { "path" } else { name };
                if !name.bytes().all(is_name_byte) {
                    return Err(Fault::Rest);
                }
                return Ok((Piece::Parameter { name, kind: Kind::Any, is_rest: true }, left.len()));
            }
            Some(b':') if any && is_first && (braces || angles) => return Err(Fault::TwoNotations),
            Some(b':') if any && !braces && !angles && begins_colon_name(is_first, before) => {
                return behind_colon(left);
            }
            Some(b'?' | b'#') => return Err(Fault::NotAlone),
            _ => {}
        }
        let mut literal = left.len();
        for (index, byte) in left.bytes().enumerate().skip(1) {
            let ends = match byte {
                b'{' | b'}' | b'?' | b'#' => true,
                b'<' | b'>' => angles,
                // As in `:from-:to`; in `items:batch` it is a literal.
                b':' => {
                    any && !braces
                        && !angles
                        && matches!(left.as_bytes().get(index - 1), Some(b'-' | b'.' | b'~'))
                }
                _ => false,
            };
            if ends {
                literal = index;
                break;
            }
        }
        Ok((Piece::Literal(left.get(..literal).unwrap_or_default()), literal))
    }
}

/// A colon begins a parameter at the beginning of a segment, or behind a literal that was cut for it.
fn begins_colon_name(is_first: bool, before: &[Piece<'_>]) -> bool {
    is_first || matches!(before.last(), Some(Piece::Literal(text)) if text.ends_with(['-', '.', '~']))
}

/// `{name}`, and where the notation allows it `{name:converter}`, `{*rest}`, `{rest...}`.
fn in_braces(left: &str, any: bool) -> Result<(Piece<'_>, usize), fn(usize) -> Fault> {
    let mut depth = 0;
    let close = left.bytes().position(|byte| {
        depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        depth == 0
    });
    let Some(close) = close else { return Err(Fault::NotClosed) };
    let inner = left.get(1..close).unwrap_or_default();
    if !any {
        if inner.is_empty() || inner.contains(['{', '}']) {
            return Err(Fault::NoName);
        }
        return Ok((Piece::Parameter { name: inner, kind: Kind::Any, is_rest: false }, close + 1));
    }
    let (name, converter) = inner.split_once(':').unwrap_or((inner, ""));
    let (bare, is_rest) = match (name.strip_prefix('*'), name.strip_suffix("...")) {
        (Some(rest), _) => (rest.trim_start_matches('*'), true),
        (_, Some(rest)) => (rest, true),
        _ => (name, matches!(converter, "path" | "*")),
    };
    if bare.ends_with('?') || converter.ends_with('?') {
        return Err(Fault::Optional);
    }
    if bare.is_empty() || !bare.bytes().all(is_name_byte) {
        return Err(Fault::NoName);
    }
    Ok((Piece::Parameter { name: bare, kind: Kind::of(converter), is_rest }, close + 1))
}

/// `<name>` or `<converter:name>`; a converter may have arguments in parentheses.
fn in_angles(left: &str) -> Result<(Piece<'_>, usize), fn(usize) -> Fault> {
    let Some(close) = left.find('>') else { return Err(Fault::NotClosed) };
    let inner = left.get(1..close).unwrap_or_default();
    let (converter, name) = inner.rsplit_once(':').unwrap_or(("", inner));
    let converter = converter.split('(').next().unwrap_or_default();
    if name.is_empty() || !name.bytes().all(is_name_byte) {
        return Err(Fault::NoName);
    }
    Ok((Piece::Parameter { name, kind: Kind::of(converter), is_rest: converter == "path" }, close + 1))
}

/// `:name`.
fn behind_colon(left: &str) -> Result<(Piece<'_>, usize), fn(usize) -> Fault> {
    let behind = left.get(1..).unwrap_or_default();
    let length = behind.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    let name = behind.get(..length).unwrap_or_default();
    if name.is_empty() {
        return Err(Fault::NoName);
    }
    match behind.as_bytes().get(length) {
        Some(b'?') => Err(Fault::Optional),
        Some(b'(' | b'*' | b'+') => Err(Fault::Expression),
        _ => Ok((Piece::Parameter { name, kind: Kind::Any, is_rest: false }, length + 1)),
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')
}

/// The literals around and between the parameters.
fn literals(pieces: &[Piece<'_>]) -> Vec<Box<str>> {
    let mut literals = vec![Box::<str>::default()];
    for piece in pieces {
        match (piece, literals.last_mut()) {
            (Piece::Literal(text), Some(last)) => *last = decoded(text),
            _ => literals.push(Box::default()),
        }
    }
    literals
}

fn decoded(text: &str) -> Box<str> {
    let mut decoded = String::new();
    super::segment::decode(text, &mut decoded);
    decoded.into()
}

/// Which character of the text begins at a byte, counted from 1.
fn character(text: &str, byte: usize) -> usize {
    text.get(..byte).map_or(0, |before| before.chars().count()) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Pattern, String> {
        Pattern::parse(text, Notation::Any).map_err(|error| error.to_string())
    }

    #[test]
    fn every_notation_is_reported_in_one() {
        let check = |text, want| assert_eq!(parse(text).unwrap().template(), want, "{text}");
        check("/", "/");
        check("/items/", "/items/");
        check("/items/{item_id}", "/items/{item_id}");
        check("/items/{item_id:int}", "/items/{item_id}");
        check("/items/{id:[0-9]{3}}", "/items/{id}");
        check("/items/<int:item_id>", "/items/{item_id}");
        check("/items/<item_id>/x", "/items/{item_id}/x");
        check("/items/<any(a,b):kind>", "/items/{kind}");
        check("/items/:item_id", "/items/{item_id}");
        check("/flights/:from-:to", "/flights/{from}-{to}");
        check("/files/:name.:ext", "/files/{name}.{ext}");
        check("/files/*rest", "/files/{rest}");
        check("/files/*", "/files/{path}");
        check("/files/{*rest}", "/files/{rest}");
        check("/files/{rest...}", "/files/{rest}");
        check("/files/{path:path}/raw", "/files/{path}/raw");
        check("/files/<path:path>", "/files/{path}");
        check("/v1/items/{id}:cancel", "/v1/items/{id}:cancel");
        check("/v1/items:batch", "/v1/items:batch");
        check("/caf\u{e9}/%7e", "/caf%C3%A9/~");
    }

    #[test]
    fn segments_are_what_they_stand_for() {
        let check = |text: &str, want: &[Segment]| {
            let pattern = parse(&format!("/{text}")).unwrap();
            assert_eq!(pattern.segments(), want, "{text}");
        };
        let literal = |text: &str| Segment::Literal(text.into());
        let mixed = |texts: &[&str]| Segment::Mixed(texts.iter().map(|text| (*text).into()).collect());
        check("", &[literal("")]);
        check("a/b%20c", &[literal("a"), literal("b c")]);
        check("{id:int}", &[Segment::Parameter(Kind::Integer)]);
        check("<uuid:id>", &[Segment::Parameter(Kind::Uuid)]);
        check("{id:mine}", &[Segment::Parameter(Kind::Any)]);
        check("a/{p:path}/b", &[literal("a"), Segment::Rest, literal("b")]);
        check("v{n}.{format}", &[mixed(&["v", ".", ""])]);
        check("{id}:cancel", &[mixed(&["", ":cancel"])]);
    }

    #[test]
    fn a_bad_pattern_says_where_and_what_to_write() {
        let check = |text: &str, want: &str| {
            let error = parse(text).unwrap_err();
            assert!(error.contains(want) && error.contains(&format!("{text:?}")), "{text}: {error}");
        };
        check("items", "begin with a slash");
        check("", "begin with a slash");
        check("/items/{id", "at character 8");
        check("/items/id}", "closes a parameter at character 10");
        check("/items/{}", "without a name at character 8");
        check("/items/:", "without a name at character 8");
        check("/items/:/x", "without a name at character 8");
        check("/items/<int:>", "without a name");
        check("/items/<int:id", "does not close");
        check("/items/:id?", "optional parameter at character 8");
        check("/items/{id?}", "optional parameter");
        check("/items/:id(\\d+)", "expression at character 8");
        check("/items/{id}/:other", "one notation");
        check("/items/{a}{b}", "side by side at character 11");
        check("/{a:path}/{b:path}", "several segments at character 11");
        check("/x{a:path}", "several segments");
        check("/items?x=1", "query or fragment at character 7");
        check("/my items", "blank or a control character at character 4");
        check("/\u{fc}\u{fc}/{id", "at character 5");
        assert!(parse(&format!("/{}", "a".repeat(MAX_TEMPLATE))).unwrap_err().contains("longer than"));
        assert!(parse(&"/a".repeat(MAX_SEGMENTS + 1)).unwrap_err().contains("segments"));
    }

    #[test]
    fn openapi_knows_braces_alone() {
        let pattern = |text| Pattern::parse(text, Notation::OpenApi);
        let template = |text| pattern(text).unwrap().template().to_owned();
        assert_eq!(template("/:a/*/<b>"), "/:a/*/<b>");
        assert_eq!(template("/{a:path}/{b?}"), "/{a:path}/{b?}");
        assert!(pattern("/{a").is_err());
        assert!(pattern("/{}").is_err());
        assert!(pattern("/a?b={c}").is_err());
    }

    #[test]
    fn parameters_take_what_their_converters_say() {
        let check = |segment: &str, yes: &[&str], no: &[&str]| {
            let pattern = parse(&format!("/{segment}")).unwrap();
            let [segment] = pattern.segments() else { panic!("one segment") };
            for (texts, want) in [(yes, true), (no, false)] {
                for text in texts {
                    assert_eq!(segment.takes(text), want, "{segment:?} {text:?}");
                }
            }
        };
        check("{a}", &["1", "x y", "\u{fc}"], &[""]);
        check("{a:int}", &["1", "007"], &["", "-1", "1a", "1.0"]);
        check("{a:float}", &["1", "1.5"], &["", ".", "1.", ".5", "a"]);
        check(
            "{a:uuid}",
            &["0b6c1b5e-6b2f-4e1c-9d2a-1f2e3d4c5b6a"],
            &["", "0b6c1b5e6b2f4e1c9d2a1f2e3d4c5b6a"],
        );
        check("<slug:a>", &["a-b_1"], &["", "a.b", "\u{fc}"]);
        check("v{a}", &["v1", "vv"], &["v", "w1"]);
        check("{a}.{b}", &["a.b", "a.b.c", "..."], &["a.", ".b", ".", "ab"]);
        check("{a}-{b}-{c}", &["1-2-3", "-----"], &["1-2", "1--3", "--"]);
    }

    #[test]
    fn a_base_goes_in_front() {
        let pattern = parse("/items/{id}").unwrap();
        assert_eq!(pattern.below("").unwrap(), pattern);
        assert_eq!(pattern.below("/api/v1").unwrap(), parse("/api/v1/items/{id}").unwrap());
        assert!(pattern.below(&format!("/{}", "a".repeat(MAX_TEMPLATE - 5))).is_err());
    }
}
