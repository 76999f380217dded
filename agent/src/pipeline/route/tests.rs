use super::{
    declared::{Endpoint, Matching},
    *,
};

const GET: Option<Method> = Some(Method::GET);

fn learning(max: usize) -> Routes {
    Routes::new(Arc::default(), max)
}

fn declared(routes: &[&str], matching: Matching) -> Arc<Declared> {
    let endpoints = routes.iter().map(|route| Endpoint::parse(route).unwrap()).collect();
    Declared::new(endpoints, matching).unwrap().into()
}

fn candidate(routes: &mut Routes, path: &str) -> Box<str> {
    match routes.find(GET, path) {
        Found::Candidate(candidate) => candidate,
        other => panic!("{path}: {other:?}"),
    }
}

fn list(routes: &Routes) -> Vec<(&str, &str)> {
    routes.templates().map(|(template, source)| (template, source.as_str())).collect()
}

#[test]
fn a_template_is_a_route_once_confirmed_and_while_there_is_room() {
    let mut routes = learning(1);
    let (first, second) = (candidate(&mut routes, "/a/1"), candidate(&mut routes, "/a/2"));
    assert_eq!(routes.settle(first, Settle::Drop), None);
    let id = routes.settle(second, Settle::Confirm).unwrap();
    assert_eq!(routes.find(GET, "/a/3"), Found::Route(id));
    assert_eq!(routes.template(id), "/a/{id}");
    let other = candidate(&mut routes, "/b");
    assert_eq!(routes.settle(other, Settle::Confirm), None);
    assert_eq!((routes.waiting, routes.known.len()), (0, 1));
}

#[test]
fn waiting_candidates_are_bounded() {
    let mut routes = learning(10);
    let long = format!("/{}", "a".repeat(2000));
    let given = (0..10_000).filter(|_| matches!(routes.find(GET, &long), Found::Candidate(_))).count();
    assert_eq!(given, MAX_CANDIDATES / 2001);
}

#[test]
fn names_asked_for_at_once_become_a_parameter_too() {
    let mut routes = learning(1000);
    let name =
        |index: usize| format!("/users/{}", "abcdefghij".get(index % 10..).unwrap().repeat(index / 10 + 1));
    let waiting: Vec<_> = (0..500).map(|index| candidate(&mut routes, &name(index))).collect();
    for template in waiting {
        assert!(routes.settle(template, Settle::Confirm).is_some());
    }
    assert_eq!(list(&routes).last(), Some(&("/users/{param}", "learned")));
    assert!(list(&routes).len() <= 51);
    assert_eq!(routes.waiting, 0);
}

/// Paths that a scanner tries and that are answered 404 leave nothing behind.
#[test]
fn a_hundred_thousand_missing_paths_add_nothing() {
    let mut routes = learning(1000);
    let item = candidate(&mut routes, "/items/7");
    let item = routes.settle(item, Settle::Confirm).unwrap();
    assert_eq!(routes.find(GET, "/items/8"), Found::Route(item));
    let learned = format!("{:?}", routes.learned);
    for index in 0..100_000 {
        let path = format!("/wp-{index:x}/x{}/{}.php", index % 7, index * 31);
        let template = candidate(&mut routes, &path);
        assert_eq!(routes.settle(template, Settle::Drop), None);
    }
    assert_eq!(routes.find(GET, "/items/8"), Found::Route(item));
    assert_eq!(format!("{:?}", routes.learned), learned);
    assert_eq!((routes.waiting, routes.known.len(), routes.ids.len()), (0, 1, 1));
}

#[test]
fn declared_routes_are_routes_from_the_start_and_the_only_ones() {
    let mut routes = Routes::new(
        declared(
            &["GET /items/{item_id}", "/caf\u{e9}/x y".replace(' ', "%20").as_str()],
            Matching::default(),
        ),
        10,
    );
    let Found::Route(id) = routes.find(GET, "/items/%37") else { panic!("not found") };
    assert_eq!(routes.template(id), "/items/{item_id}");
    assert!(matches!(routes.find(GET, "/caf%C3%A9/x%20y"), Found::Route(_)));
    assert!(matches!(routes.find(GET, "/caf\u{e9}/x%20y"), Found::Route(_)));
    assert!(matches!(routes.find(GET, "/items/a%2Fb"), Found::Route(_)));
    assert_eq!(routes.find(GET, "/items/a/b"), Found::Unmatched);
    assert_eq!(routes.find(GET, "/items/%C3/b"), Found::Unmatched);
    assert_eq!(routes.find(GET, "/other"), Found::Unmatched);
    assert_eq!(list(&routes), [("/items/{item_id}", "declared"), ("/caf%C3%A9/x%20y", "declared")]);
}

#[test]
fn what_is_not_declared_can_be_learned() {
    let matching = Matching { otherwise: Otherwise::Learn, ..Matching::default() };
    let mut routes = Routes::new(declared(&["/users/{name}"], matching), 10);
    assert!(matches!(routes.find(GET, "/users/alice"), Found::Route(_)));
    let other = candidate(&mut routes, "/items/7");
    routes.settle(other, Settle::Confirm).unwrap();
    assert_eq!(list(&routes), [("/users/{name}", "declared"), ("/items/{id}", "learned")]);
}

#[test]
fn a_slash_at_the_end_can_be_ignored_everywhere() {
    let matching = Matching { trailing_slash: TrailingSlash::Ignore, otherwise: Otherwise::Learn };
    let mut routes = Routes::new(declared(&["/items", "/users/"], matching), 10);
    for path in ["/items", "/items/"] {
        assert!(matches!(routes.find(GET, path), Found::Route(RouteId(0))), "{path}");
    }
    for path in ["/users", "/users/"] {
        assert!(matches!(routes.find(GET, path), Found::Route(RouteId(1))), "{path}");
    }
    assert_eq!(&*candidate(&mut routes, "/other/7/"), "/other/{id}");
    assert_eq!(&*candidate(&mut routes, "/"), "/");
}

#[test]
fn ids_outlive_what_declared_them() {
    let mut routes = Routes::new(declared(&["/items/{id}", "/old"], Matching::default()), 10);
    let Found::Route(items) = routes.find(GET, "/items/7") else { panic!("not found") };
    let Found::Route(old) = routes.find(GET, "/old") else { panic!("not found") };
    routes.replace(declared(&["/new", "/items/{id}"], Matching::default()));
    assert_eq!(routes.find(GET, "/items/7"), Found::Route(items));
    assert_eq!(routes.find(GET, "/old"), Found::Unmatched);
    assert_eq!(routes.template(old), "/old");
    assert_eq!(list(&routes), [("/items/{id}", "declared"), ("/new", "declared")]);
    // Nothing is declared any more: what is answered is learned, under the ids that there are.
    routes.replace(Arc::default());
    assert_eq!(list(&routes), []);
    let again = candidate(&mut routes, "/old");
    assert_eq!(routes.settle(again, Settle::Confirm), Some(old));
    assert_eq!(list(&routes), [("/old", "learned")]);
    routes.replace(declared(&["/old"], Matching::default()));
    assert_eq!(list(&routes), [("/old", "declared")]);
}

#[test]
fn templates_that_ever_were_are_bounded() {
    let mut routes = learning(10);
    for round in 0..5 {
        let endpoints = (0..MAX_ENDPOINTS).map(|index| format!("/r{round}/{index}"));
        let endpoints = endpoints.map(|route| Endpoint::parse(&route).unwrap()).collect();
        routes.replace(Declared::new(endpoints, Matching::default()).unwrap().into());
    }
    assert_eq!(routes.known.len(), MAX_KNOWN);
    assert_eq!(routes.find(GET, "/r4/0"), Found::NoRoom);
    assert_eq!(routes.find(GET, "/r0/0"), Found::Unmatched);
}
