//! Templates out of the paths that were answered.
//!
//! A segment that looks generated is replaced by what it looks like ([`placeholder`]); the others stay as they are,
//! until a position has had too many different ones: then it is a parameter that we cannot recognise, a name or a
//! slug, and new values there become `{param}`. What is a route already stays one, under the words it was reported
//! with, so that a path means the same from its first report on.
//!
//! Many values alone do not make a parameter: an API may have sixty resources side by side. But its paths come
//! again and again, while most names of users come once before the next one does. So [`CROWD`] values make a
//! parameter when most of them came only once, and [`MOST`] do in any case. Once half of the room for routes is
//! taken, fewer do, and ever fewer as it fills: a parameter too early beats routes that are turned away.

use super::{
    MAX_TEMPLATE, RouteId,
    segment::{is_plain, placeholder, push_literal},
};

/// Different words at one position, of which most came only once.
const CROWD: usize = 50;

/// Different words at one position.
const MOST: usize = 200;

/// Segments of a path; one with more is turned away. It bounds how deep a look-up goes.
const MAX_SEGMENTS: usize = 256;

/// Positions of all templates together, 100 bytes each. A template that needs more is turned away.
const MAX_NODES: usize = 32 * 1024;

/// What stands for the words of a crowded position.
const PARAM: &str = "{param}";

/// The templates that are routes, by their segments, and how many words each position has had. At most `max`.
#[derive(Debug)]
pub struct Learned {
    nodes: Vec<Node>,
    routes: usize,
    max: usize,
    /// Reused: a path whose spelling is not the one of templates.
    spelled: String,
    /// Reused, and empty meanwhile: the template of a path.
    template: String,
}

/// What was found behind the segments that lead here.
#[derive(Debug, Default)]
struct Node {
    /// In the order of [`Node::place`].
    children: Vec<(Box<str>, u32)>,
    /// The child behind [`PARAM`]. It is asked for at each word, and to look among the others costs cache misses.
    param: Option<u32>,
    /// Children that are no placeholders.
    words: usize,
    /// Those of them that came again.
    words_again: usize,
    /// This one came again.
    again: bool,
    route: Option<RouteId>,
}

/// What a path is by what was learned.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    Route(RouteId),
    /// No route yet: the template it would have.
    Not(Box<str>),
    /// Its template exceeds [`MAX_TEMPLATE`], or it has too many segments.
    TooLong,
}

impl Learned {
    pub fn new(max: usize) -> Self {
        Self { nodes: vec![Node::default()], routes: 0, max, spelled: String::new(), template: String::new() }
    }

    /// Looks a path up. One that leads to a route costs no allocation.
    pub fn find(&mut self, path: &str) -> Known {
        if is_plain(path) {
            return self.find_plain(path);
        }
        let mut spelled = std::mem::take(&mut self.spelled);
        spelled.clear();
        let known = match path.len() > 8 * MAX_TEMPLATE {
            true => Known::TooLong,
            false => {
                push_literal(path, &mut spelled);
                self.find_plain(&spelled)
            }
        };
        self.spelled = spelled;
        known
    }

    fn find_plain(&mut self, path: &str) -> Known {
        if path.bytes().filter(|byte| *byte == b'/').count() >= MAX_SEGMENTS {
            return Known::TooLong;
        }
        if let Some(id) = self.walk(0, Some(path)) {
            return Known::Route(id);
        }
        let mut template = std::mem::take(&mut self.template);
        let known = match self.spell_template(path, &mut template) {
            true => Known::Not(template.as_str().into()),
            false => Known::TooLong,
        };
        template.clear();
        self.template = template;
        known
    }

    /// What a template that was found is by now: words of positions that have become crowded since are replaced. One
    /// that stays what it was costs no allocation.
    pub fn settled(&self, template: Box<str>) -> Result<RouteId, Box<str>> {
        let (mut node, mut is_overtaken) = (self.nodes.first(), false);
        for segment in template.split('/') {
            let Some(here) = node else { break };
            is_overtaken |= is_word(segment) && self.is_crowded(here);
            node = here.child(segment).and_then(|child| self.nodes.get(child as usize));
        }
        if let Some(id) = node.and_then(|node| node.route) {
            return Ok(id);
        }
        if !is_overtaken {
            return Err(template);
        }
        let mut now = String::new();
        let now = if self.spell_template(&template, &mut now) { now.into() } else { template };
        self.known(&now).ok_or(now)
    }

    /// Makes a template a route, unless there is no room.
    pub fn add(&mut self, template: &str, id: RouteId) -> bool {
        let segments = template.split('/').count();
        if self.routes >= self.max || self.nodes.len() + segments > MAX_NODES {
            return false;
        }
        let mut at = 0;
        for segment in template.split('/') {
            at = self.child(at, segment);
        }
        let Some(node) = self.nodes.get_mut(at as usize) else { return false };
        self.routes += usize::from(node.route.is_none());
        node.route = Some(id);
        true
    }

    /// Whether there is room for another route.
    pub fn has_room(&self) -> bool {
        self.routes < self.max && self.nodes.len() < MAX_NODES
    }

    /// The route of exactly this template.
    fn known(&self, template: &str) -> Option<RouteId> {
        let mut node = self.nodes.first()?;
        for segment in template.split('/') {
            node = self.nodes.get(node.child(segment)? as usize)?;
        }
        node.route
    }

    /// The route of a path, words before placeholders.
    fn walk(&mut self, at: u32, path: Option<&str>) -> Option<RouteId> {
        let Some(path) = path else { return self.nodes.get(at as usize)?.route };
        let (segment, left) = match path.split_once('/') {
            Some((segment, left)) => (segment, Some(left)),
            None => (path, None),
        };
        if let Some(name) = placeholder(segment) {
            let child = self.nodes.get(at as usize)?.child(name)?;
            return self.walk(child, left);
        }
        if let Some(child) = self.nodes.get(at as usize)?.child(segment)
            && let Some(id) = self.walk(child, left)
        {
            self.note_again(at, child);
            return Some(id);
        }
        let child = self.nodes.get(at as usize)?.param?;
        self.walk(child, left)
    }

    /// The word that leads from a node to its child came again.
    fn note_again(&mut self, at: u32, child: u32) {
        let Some(child) = self.nodes.get_mut(child as usize) else { return };
        if !std::mem::replace(&mut child.again, true)
            && let Some(node) = self.nodes.get_mut(at as usize)
        {
            node.words_again += 1;
        }
    }

    /// Puts the template of a path, or of a template, into `template`, which is empty; false when it is longer than
    /// [`MAX_TEMPLATE`].
    fn spell_template(&self, path: &str, template: &mut String) -> bool {
        let mut node = self.nodes.first();
        for (index, segment) in path.split('/').enumerate() {
            if index > 0 {
                template.push('/');
            }
            let name = match placeholder(segment) {
                Some(name) => name,
                None if is_word(segment) && node.is_some_and(|node| self.is_crowded(node)) => PARAM,
                None => segment,
            };
            if template.len() + name.len() > MAX_TEMPLATE {
                return false;
            }
            template.push_str(name);
            node = node.and_then(|node| self.nodes.get(node.child(name)? as usize));
        }
        true
    }

    /// Whether another word here would be one too many. It stays so once there was one.
    fn is_crowded(&self, node: &Node) -> bool {
        let free = self.max.saturating_sub(self.routes);
        let is_half_full = free * 2 < self.max;
        node.param.is_some()
            || node.words >= MOST
            || (node.words >= CROWD && node.words_again * 2 < node.words)
            || (is_half_full && node.words >= (2 * CROWD * free / self.max).max(1))
    }

    /// The node behind a segment, made where there is none.
    fn child(&mut self, at: u32, segment: &str) -> u32 {
        let next = self.nodes.len() as u32;
        let Some(node) = self.nodes.get_mut(at as usize) else { return at };
        match node.place(segment) {
            Ok(place) => node.children.get(place).map_or(at, |(_, child)| *child),
            Err(place) => {
                node.children.insert(place, (segment.into(), next));
                node.words += usize::from(is_word(segment));
                if segment == PARAM {
                    node.param = Some(next);
                }
                self.nodes.push(Node::default());
                next
            }
        }
    }
}

impl Node {
    /// Where a segment is among the children, or would be. They are in the order of their lengths, which tells most of
    /// them apart without a look at their bytes.
    fn place(&self, segment: &str) -> Result<usize, usize> {
        let order = |known: &str| known.len().cmp(&segment.len()).then_with(|| known.cmp(segment));
        self.children.binary_search_by(|(known, _)| order(known))
    }

    fn child(&self, segment: &str) -> Option<u32> {
        let place = self.place(segment).ok()?;
        self.children.get(place).map(|(_, child)| *child)
    }
}

/// A segment of a template that is no placeholder: in words, braces are percent-encoded. The empty one, at the front
/// and at the end of a path, is none of the words that a position can have too many of.
fn is_word(segment: &str) -> bool {
    !segment.is_empty() && !segment.starts_with('{')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What paths became, one after the other, all of them answered.
    fn learn<'a>(learned: &mut Learned, paths: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut templates = Vec::new();
        for path in paths {
            if let Known::Not(template) = learned.find(path) {
                let id = RouteId(learned.routes as u32);
                if learned.add(&template, id) {
                    templates.push(template.into());
                }
            }
        }
        templates
    }

    fn names(count: usize) -> impl Iterator<Item = String> {
        (0..count).map(|index| {
            let letter = |place: u32| (b'a' + (index / 26_usize.pow(place) % 26) as u8) as char;
            format!("{}{}{}", letter(2), letter(1), letter(0))
        })
    }

    #[test]
    fn a_path_has_one_template() {
        let mut learned = Learned::new(100);
        let mut check = |path, want: &str| match learned.find(path) {
            Known::Not(template) => assert_eq!(&*template, want, "{path}"),
            other => panic!("{path}: {other:?}"),
        };
        check("/", "/");
        check("/items/7", "/items/{id}");
        check("/items/7/", "/items/{id}/");
        check("/v1/items", "/v1/items");
        check("/a/0b6c1b5e-6b2f-4e1c-9d2a-1f2e3d4c5b6a/b", "/a/{uuid}/b");
        check("/a%20b/\u{e9}", "/a%20b/%C3%A9");
        check("/%69tems/%37", "/items/{id}");
        check("/{id}/{param}", "/%7Bid%7D/%7Bparam%7D");
        check("//", "//");
    }

    #[test]
    fn names_that_come_once_become_a_parameter() {
        let mut learned = Learned::new(1000);
        let paths: Vec<_> = names(5000).map(|name| format!("/users/{name}")).collect();
        let templates = learn(&mut learned, paths.iter().map(String::as_str));
        assert_eq!(templates.len(), CROWD + 1);
        assert_eq!(templates.last().unwrap(), "/users/{param}");
        // What was a route stays one, and the others are found.
        let first = learned.find("/users/aaa");
        assert_eq!(first, Known::Route(RouteId(0)));
        assert_eq!(learned.find("/users/zzz"), Known::Route(RouteId(CROWD as u32)));
        // What lies behind the position does so for all of its words.
        let templates = learn(&mut learned, ["/users/aaa/posts", "/users/zzz/posts", "/teams/aaa"]);
        assert_eq!(templates, ["/users/{param}/posts", "/teams/aaa"]);
    }

    #[test]
    fn resources_that_come_again_stay() {
        let mut learned = Learned::new(1000);
        let paths: Vec<_> = names(150).map(|name| format!("/api/{name}")).collect();
        for _ in 0..3 {
            for part in paths.chunks(40) {
                for _ in 0..2 {
                    learn(&mut learned, part.iter().map(String::as_str));
                }
            }
        }
        assert_eq!(learned.routes, 150);
        let Known::Not(template) = learned.find("/api/other") else { panic!("not known") };
        assert_eq!(&*template, "/api/other");
    }

    #[test]
    fn too_many_that_come_again_become_a_parameter_too() {
        let mut learned = Learned::new(1000);
        let paths: Vec<_> = names(600).map(|name| format!("/users/{name}/feed")).collect();
        for path in &paths {
            learn(&mut learned, [path.as_str(), path.as_str()]);
        }
        assert_eq!(learned.routes, MOST + 1);
    }

    #[test]
    fn a_table_that_fills_up_takes_fewer_words() {
        let mut learned = Learned::new(100);
        let paths: Vec<_> =
            names(40).flat_map(|shop| names(40).map(move |item| format!("/{shop}/{item}"))).collect();
        let templates = learn(&mut learned, paths.iter().map(String::as_str));
        assert!(templates.len() < 100, "{}", templates.len());
        assert!(templates.iter().any(|template| template == "/{param}/{param}"), "{templates:?}");
        for path in &paths {
            assert!(matches!(learned.find(path), Known::Route(_)), "{path}");
        }
    }

    #[test]
    fn a_path_keeps_its_template() {
        let mut learned = Learned::new(300);
        let mut given: Vec<(String, RouteId)> = Vec::new();
        for round in 0..2 {
            for name in names(700) {
                for path in [format!("/{name}"), format!("/users/{name}"), format!("/users/{name}/posts/7")] {
                    if let Known::Not(template) = learned.find(&path) {
                        learned.add(&template, RouteId(learned.routes as u32));
                    }
                    if let Known::Route(id) = learned.find(&path)
                        && round == 0
                    {
                        given.push((path, id));
                    }
                }
            }
        }
        assert!(given.len() > 2000, "{}", given.len());
        for (path, id) in given {
            assert_eq!(learned.find(&path), Known::Route(id), "{path}");
        }
    }

    #[test]
    fn room_is_bounded() {
        let mut learned = Learned::new(10_000);
        let deep = |name: &str| format!("/{name}{}", "/x".repeat(200));
        let paths: Vec<_> = (0..1000).map(|index| format!("/v{index}x/a")).map(|name| deep(&name)).collect();
        learn(&mut learned, paths.iter().map(String::as_str));
        assert!(learned.nodes.len() <= MAX_NODES);
        assert_eq!(learned.find(&"/x".repeat(MAX_SEGMENTS)), Known::TooLong);
        assert_eq!(learned.find(&format!("/{}", "a".repeat(MAX_TEMPLATE))), Known::TooLong);
        assert_eq!(learned.find(&format!("/{}", "\u{e9}".repeat(MAX_TEMPLATE / 4))), Known::TooLong);
        assert!(matches!(learned.find(&format!("/{}", "1".repeat(5000))), Known::Not(_)));
    }
}
