//! Routes that are known before a request comes: patterns of the configuration, paths of an OpenAPI document.
//!
//! Where several patterns take a path, the first segment in which they differ decides, from the left: a literal
//! beats a segment that is part literal, that beats a parameter with a converter, that beats a plain parameter, and
//! one that takes several segments comes last. So `/items/me` comes before `/items/{id}` wherever it was declared.
//! OpenAPI demands this ("concrete paths would be matched before their templated counterparts"), and the routers of
//! Go, axum, Fastify and Spring do it. Django, FastAPI and Express take the first that was declared; there a literal
//! behind the parameter that swallows it would never be called, so in an app that works the answer is the same.
//!
//! A pattern whose method is another one gives way to one further back that has the request's. When none has it,
//! the path is still the first pattern's: what comes of it is mostly a 405, and a row of that path.

use std::collections::HashMap;

use super::{
    Source,
    pattern::{Kind, Notation, Pattern, PatternError, Segment},
};
use crate::pipeline::http::head::Method;

/// Endpoints of one target; each spelling of a path counts.
pub const MAX_ENDPOINTS: usize = 50_000;

/// A declared route: a pattern, and what may be called there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// None for every method.
    pub method: Option<Method>,
    pub pattern: Pattern,
    /// Other paths that lead there, reported as `pattern`.
    pub also: Vec<Pattern>,
    pub source: Source,
    pub summary: Option<Box<str>>,
    pub description: Option<Box<str>>,
}

/// Why a text declares no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("the route {text:?} has {saw:?} where its method should be; write it like `GET /items/{{id}}`")]
    Method { text: String, saw: String },
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// There are more endpoints than [`MAX_ENDPOINTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{saw} routes are declared, with every base path they may have; at most {MAX_ENDPOINTS} can be. \
     Declare fewer, or parameters in place of some of their segments"
)]
pub struct TooManyRoutes {
    pub saw: usize,
}

/// How paths are compared with patterns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    pub trailing_slash: TrailingSlash,
    pub otherwise: Otherwise,
}

/// What a slash at the end of a path means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrailingSlash {
    /// `/items/` is not `/items`, as for FastAPI, Django, Flask and Go: they answer with a redirect
    /// or 404.
    #[default]
    Strict,
    /// It is, as for Express.
    Ignore,
}

/// What becomes of a path that no declared route takes. Without declared routes, paths are always learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Otherwise {
    /// It is counted as unmatched.
    #[default]
    Unmatched,
    /// Its template is learned: what is declared is not all there is.
    Learn,
}

/// The declared routes of a target, ready to be looked up: at most [`MAX_ENDPOINTS`].
#[derive(Debug, Default)]
pub struct Declared {
    pub matching: Matching,
    endpoints: Vec<Endpoint>,
    /// Each once, in the order in which they were declared.
    templates: Vec<(Box<str>, Source)>,
    /// Of the configuration, then of OpenAPI documents.
    tries: [Trie; 2],
}

impl Endpoint {
    /// Reads a route as the configuration has it: `/items/{id}`, or with a method, `GET /items/{id}`.
    ///
    /// # Errors
    /// When the method is none, or the path no pattern.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let text = text.trim();
        let (method, path) = match text.split_once(char::is_whitespace) {
            Some((method, path)) if !text.starts_with('/') => (Some(method), path.trim_start()),
            _ => (None, text),
        };
        let method = method
            .map(|name| {
                let wrong = || EndpointError::Method { text: shortened(text), saw: shortened(name) };
                Method::new(name).ok_or_else(wrong)
            })
            .transpose()?;
        let pattern = Pattern::parse(path, Notation::Any)?;
        let also = Vec::new();
        Ok(Self { method, pattern, also, source: Source::Declared, summary: None, description: None })
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

impl Declared {
    /// Of two endpoints with the same path and method the first counts.
    ///
    /// # Errors
    /// When there are too many.
    pub fn new(endpoints: Vec<Endpoint>, matching: Matching) -> Result<Self, TooManyRoutes> {
        let saw = endpoints.iter().map(|endpoint| 1 + endpoint.also.len()).sum();
        if saw > MAX_ENDPOINTS {
            return Err(TooManyRoutes { saw });
        }
        let mut declared = Self { matching, ..Self::default() };
        let mut numbers: HashMap<Box<str>, u32> = HashMap::new();
        let templates = &mut declared.templates;
        let numbered: Vec<u32> = endpoints
            .iter()
            .map(|endpoint| {
                let template = endpoint.pattern.template();
                if let Some(&number) = numbers.get(template) {
                    return number;
                }
                let number = templates.len() as u32;
                templates.push((template.into(), endpoint.source));
                numbers.insert(template.into(), number);
                number
            })
            .collect();
        // Other spellings last: where one is also the path of an endpoint, it is that one's.
        let strict = matching.trailing_slash == TrailingSlash::Strict;
        for (endpoint, number) in endpoints.iter().zip(&numbered) {
            declared.tries[endpoint.trie()].insert(&endpoint.pattern, strict, endpoint.method, *number);
        }
        for (endpoint, number) in endpoints.iter().zip(&numbered) {
            for pattern in &endpoint.also {
                declared.tries[endpoint.trie()].insert(pattern, strict, endpoint.method, *number);
            }
        }
        declared.endpoints = endpoints;
        Ok(declared)
    }

    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// As they were declared.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// What is reported, each once.
    pub fn templates(&self) -> impl Iterator<Item = (&str, Source)> {
        self.templates.iter().map(|(template, source)| (&**template, *source))
    }

    /// The number of the template that a path is reported under. `path` is decoded, and has no slash at its end
    /// where that does not count.
    pub fn find(&self, method: Option<Method>, path: &str) -> Option<usize> {
        let path = path.strip_prefix('/')?;
        let mut search = Search { method, other_method: None };
        let found = self.tries.iter().find_map(|trie| trie.find(0, Some(path), &mut search));
        found.or(search.other_method).map(|number| number as usize)
    }
}

impl Endpoint {
    fn trie(&self) -> usize {
        usize::from(self.source == Source::OpenApi)
    }
}

/// Patterns by their segments. A look-up visits each node at most once.
#[derive(Debug)]
struct Trie {
    nodes: Vec<Node>,
}

impl Default for Trie {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

/// What may follow on the segments that led here.
#[derive(Debug, Default)]
struct Node {
    /// In the order of their texts.
    literals: Vec<(Box<str>, u32)>,
    /// Those with the most literal bytes first.
    mixed: Vec<(Segment, u32)>,
    typed: Vec<(Kind, u32)>,
    any: Option<u32>,
    /// What must follow on any number of segments, the longest first.
    rests: Vec<(Vec<Segment>, Leaf)>,
    leaf: Leaf,
}

/// Endpoints whose pattern ends here: methods and numbers of templates.
type Leaf = Vec<(Option<Method>, u32)>;

struct Search {
    method: Option<Method>,
    /// The first template that takes the path and not the method.
    other_method: Option<u32>,
}

impl Search {
    fn pick(&mut self, leaf: &Leaf) -> Option<u32> {
        let with = |method: Option<Method>| {
            leaf.iter().find(|(known, _)| *known == method).map(|(_, number)| *number)
        };
        let found = self.method.and_then(|method| with(Some(method))).or_else(|| with(None));
        // Servers answer HEAD as GET where nothing else is declared.
        let found = found.or_else(|| with(Some(Method::GET)).filter(|_| self.method == Some(Method::HEAD)));
        if found.is_none() && self.other_method.is_none() {
            self.other_method = leaf.first().map(|(_, number)| *number);
        }
        found
    }
}

impl Trie {
    fn insert(&mut self, pattern: &Pattern, strict: bool, method: Option<Method>, number: u32) {
        let mut segments = pattern.segments();
        if let (false, [first @ .., Segment::Literal(last)]) = (strict, segments)
            && last.is_empty()
            && !first.is_empty()
        {
            segments = first;
        }
        let mut at = 0;
        for (index, segment) in segments.iter().enumerate() {
            if *segment == Segment::Rest {
                let tail = segments.get(index + 1..).unwrap_or_default();
                let Some(node) = self.nodes.get_mut(at as usize) else { return };
                let leaf = match node.rests.iter().position(|(known, _)| known == tail) {
                    Some(place) => place,
                    None => {
                        let place = node.rests.partition_point(|(known, _)| known.len() >= tail.len());
                        node.rests.insert(place, (tail.to_vec(), Leaf::new()));
                        place
                    }
                };
                if let Some((_, leaf)) = node.rests.get_mut(leaf) {
                    add(leaf, method, number);
                }
                return;
            }
            at = self.child(at, segment);
        }
        if let Some(node) = self.nodes.get_mut(at as usize) {
            add(&mut node.leaf, method, number);
        }
    }

    /// The node behind a segment, made where there is none.
    fn child(&mut self, at: u32, segment: &Segment) -> u32 {
        let next = self.nodes.len() as u32;
        let Some(node) = self.nodes.get_mut(at as usize) else { return at };
        let child = match segment {
            Segment::Literal(text) => match node.literals.binary_search_by(|(known, _)| known.cmp(text)) {
                Ok(place) => node.literals.get(place).map(|(_, child)| *child),
                Err(place) => {
                    node.literals.insert(place, (text.clone(), next));
                    None
                }
            },
            Segment::Mixed(literals) => {
                let known = node.mixed.iter().find(|(known, _)| known == segment).map(|(_, child)| *child);
                if known.is_none() {
                    let weight = |segment: &Segment| match segment {
                        Segment::Mixed(literals) => literals.iter().map(|literal| literal.len()).sum(),
                        _ => 0,
                    };
                    let length: usize = literals.iter().map(|literal| literal.len()).sum();
                    let place = node.mixed.partition_point(|(known, _)| weight(known) >= length);
                    node.mixed.insert(place, (segment.clone(), next));
                }
                known
            }
            Segment::Parameter(Kind::Any) => {
                let known = node.any;
                node.any = known.or(Some(next));
                known
            }
            Segment::Parameter(kind) => {
                let known = node.typed.iter().find(|(known, _)| known == kind).map(|(_, child)| *child);
                if known.is_none() {
                    node.typed.push((*kind, next));
                }
                known
            }
            Segment::Rest => return at,
        };
        child.unwrap_or_else(|| {
            self.nodes.push(Node::default());
            next
        })
    }

    /// `path` is what is left of it behind the node's slash; None when it ends at the node.
    fn find(&self, at: u32, path: Option<&str>, search: &mut Search) -> Option<u32> {
        let node = self.nodes.get(at as usize)?;
        let Some(path) = path else {
            return if node.leaf.is_empty() { None } else { search.pick(&node.leaf) };
        };
        let (segment, left) = match path.split_once('/') {
            Some((segment, left)) => (segment, Some(left)),
            None => (path, None),
        };
        if let Ok(place) = node.literals.binary_search_by(|(known, _)| (**known).cmp(segment))
            && let Some((_, child)) = node.literals.get(place)
            && let Some(found) = self.find(*child, left, search)
        {
            return Some(found);
        }
        for (mixed, child) in &node.mixed {
            if mixed.takes(segment)
                && let Some(found) = self.find(*child, left, search)
            {
                return Some(found);
            }
        }
        for (kind, child) in &node.typed {
            if kind.takes(segment)
                && let Some(found) = self.find(*child, left, search)
            {
                return Some(found);
            }
        }
        if let Some(child) = node.any
            && !segment.is_empty()
            && let Some(found) = self.find(child, left, search)
        {
            return Some(found);
        }
        node.rests.iter().find_map(|(tail, leaf)| ends_with(path, tail).then(|| search.pick(leaf)).flatten())
    }
}

/// The first endpoint of a path and method counts.
fn add(leaf: &mut Leaf, method: Option<Method>, number: u32) {
    if !leaf.iter().any(|(known, _)| *known == method) {
        leaf.push((method, number));
    }
}

/// Whether the last segments are these, and there is another one before them.
fn ends_with(path: &str, tail: &[Segment]) -> bool {
    let mut left = path;
    for segment in tail.iter().rev() {
        let Some((before, last)) = left.rsplit_once('/') else { return false };
        if !segment.takes(last) {
            return false;
        }
        left = before;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(routes: &[&str]) -> Declared {
        let endpoints = routes.iter().map(|route| Endpoint::parse(route).unwrap()).collect();
        Declared::new(endpoints, Matching::default()).unwrap()
    }

    #[track_caller]
    fn check(declared: &Declared, request: &str, want: Option<&str>) {
        let (method, path) = request.split_once(' ').unwrap();
        let found = declared.find(Method::new(method), path);
        let found = found.map(|number| &*declared.templates[number].0);
        assert_eq!(found, want, "{request}");
    }

    #[test]
    fn literals_beat_parameters_segment_by_segment() {
        let routes = [
            "/{all:path}",
            "/{org}/{repo}",
            "/items/{id}",
            "/items/{id:int}",
            "/items/{name}.json",
            "/items/report-{year}.json",
            "/items/me",
            "/items/{id}/tags/{tag}",
            "/{org}/settings",
        ];
        let forward = declared(&routes);
        let mut reversed = routes;
        reversed.reverse();
        let backward = declared(&reversed);
        for declared in [&forward, &backward] {
            check(declared, "GET /items/me", Some("/items/me"));
            check(declared, "GET /items/7", Some("/items/{id}"));
            check(declared, "GET /items/x", Some("/items/{id}"));
            check(declared, "GET /items/x.json", Some("/items/{name}.json"));
            check(declared, "GET /items/report-2024.json", Some("/items/report-{year}.json"));
            check(declared, "GET /items/7/tags/new", Some("/items/{id}/tags/{tag}"));
            check(declared, "GET /items/settings", Some("/items/{id}"));
            check(declared, "GET /acme/settings", Some("/{org}/settings"));
            check(declared, "GET /acme/tool", Some("/{org}/{repo}"));
            check(declared, "GET /acme/tool/x/y", Some("/{all}"));
            check(declared, "GET /items/7/tags", Some("/{all}"));
            check(declared, "GET /", Some("/{all}"));
        }
    }

    #[test]
    fn a_wrong_turn_is_taken_back() {
        let declared = declared(&["/a/b/c", "/{x}/b/d", "/a/{y}/e", "/{x}/{y}/{z}"]);
        check(&declared, "GET /a/b/c", Some("/a/b/c"));
        check(&declared, "GET /a/b/d", Some("/{x}/b/d"));
        check(&declared, "GET /a/b/e", Some("/a/{y}/e"));
        check(&declared, "GET /a/b/f", Some("/{x}/{y}/{z}"));
        check(&declared, "GET /a/b", None);
        check(&declared, "GET /a/b/f/g", None);
    }

    #[test]
    fn methods_decide_between_patterns_and_never_against_all() {
        let declared =
            declared(&["GET /items/me", "POST /items/{id}", "GET /items/{name}", "/open", "PUT /open"]);
        check(&declared, "GET /items/me", Some("/items/me"));
        check(&declared, "HEAD /items/me", Some("/items/me"));
        check(&declared, "POST /items/me", Some("/items/{id}"));
        check(&declared, "GET /items/7", Some("/items/{name}"));
        check(&declared, "POST /items/7", Some("/items/{id}"));
        check(&declared, "DELETE /items/7", Some("/items/{id}"));
        check(&declared, "DELETE /items/me", Some("/items/me"));
        check(&declared, "PATCH /open", Some("/open"));
        check(&declared, "get1 /items/7", Some("/items/{id}"));
        check(&declared, "GET /items", None);
    }

    #[test]
    fn configuration_comes_before_openapi() {
        let mut openapi = Endpoint::parse("GET /items/me").unwrap();
        openapi.source = Source::OpenApi;
        let mut other = Endpoint::parse("PUT /items/{item_id}").unwrap();
        other.source = Source::OpenApi;
        let own = Endpoint::parse("GET /items/{id}").unwrap();
        let declared = Declared::new(vec![openapi, other, own], Matching::default()).unwrap();
        check(&declared, "GET /items/me", Some("/items/{id}"));
        check(&declared, "PUT /items/me", Some("/items/{item_id}"));
        check(&declared, "PATCH /items/7", Some("/items/{id}"));
    }

    #[test]
    fn a_rest_leaves_what_is_behind_it() {
        let declared = declared(&["/files/*path", "/files/{path:path}/raw", "/files/{p:path}/{v:int}/raw"]);
        check(&declared, "GET /files/a/b", Some("/files/{path}"));
        check(&declared, "GET /files/a/raw", Some("/files/{path}/raw"));
        check(&declared, "GET /files/a/b/raw", Some("/files/{path}/raw"));
        check(&declared, "GET /files/a/7/raw", Some("/files/{p}/{v}/raw"));
        check(&declared, "GET /files/raw", Some("/files/{path}"));
        check(&declared, "GET /files/", Some("/files/{path}"));
        check(&declared, "GET /files", None);
    }

    #[test]
    fn a_slash_at_the_end_counts_unless_it_is_told_not_to() {
        let strict = declared(&["/items", "/users/", "/{any}"]);
        check(&strict, "GET /items/", None);
        check(&strict, "GET /users", Some("/{any}"));
        check(&strict, "GET /users/", Some("/users/"));
        check(&strict, "GET /", None);
        let routes = ["/items", "/users/", "/"].map(|route| Endpoint::parse(route).unwrap());
        let matching = Matching { trailing_slash: TrailingSlash::Ignore, ..Matching::default() };
        let loose = Declared::new(routes.into(), matching).unwrap();
        check(&loose, "GET /items", Some("/items"));
        check(&loose, "GET /users", Some("/users/"));
        check(&loose, "GET /", Some("/"));
    }

    #[test]
    fn another_spelling_is_reported_as_the_first() {
        let mut endpoint = Endpoint::parse("GET /api/items/{id}").unwrap();
        endpoint.also.push(Pattern::parse("/items/{id}", Notation::OpenApi).unwrap());
        let other = Endpoint::parse("GET /items/{name}").unwrap();
        let declared = Declared::new(vec![endpoint, other], Matching::default()).unwrap();
        check(&declared, "GET /api/items/7", Some("/api/items/{id}"));
        check(&declared, "GET /items/7", Some("/items/{name}"));
    }

    #[test]
    fn what_declares_no_route_is_named() {
        let check = |text: &str, want: &str| {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text}: {error}");
        };
        check("G3T /items", "\"G3T\" where its method should be");
        check("GET items", "begin with a slash");
        check("items", "begin with a slash");
        check("/a b", "blank");
        assert_eq!(Endpoint::parse(" post   /a ").unwrap().method, Method::new("POST"));
        let many = vec![Endpoint::parse("/a").unwrap(); MAX_ENDPOINTS + 1];
        assert!(Declared::new(many, Matching::default()).unwrap_err().to_string().contains("50001 routes"));
    }
}
