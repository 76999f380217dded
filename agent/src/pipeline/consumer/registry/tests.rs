use httparse::Header;

use super::*;
use crate::pipeline::consumer::{ConsumerRule, Hashing, Key, NameTable, Source};

fn key() -> Key {
    Key::from_client_id("a client")
}

fn rules() -> ConsumerRules {
    let rule = ConsumerRule::new(Source::header("x-who").unwrap()).hashing(Hashing::Never);
    let (names, groups) = (vec![Source::header("x-name").unwrap()], vec![Source::header("x-group").unwrap()]);
    ConsumerRules::new(key(), vec![rule]).unwrap().named_by(names, groups).unwrap()
}

fn table(entries: &[(&str, &str, &str)]) -> Arc<NameTable> {
    let mut table = NameTable::default();
    for (identifier, name, group) in entries {
        table.insert(&key(), identifier, name, group).unwrap();
    }
    Arc::new(table)
}

/// A request by `who` that says `name` and `group`, closed at once.
fn request(consumers: &mut Consumers, who: &str, name: &str, group: &str) -> Identified {
    let identified = open(consumers, who, name, group);
    if let Identified::Consumer(id) = identified {
        consumers.release(id);
    }
    identified
}

fn open(consumers: &mut Consumers, who: &str, name: &str, group: &str) -> Identified {
    let fields = [("x-who", who), ("x-name", name), ("x-group", group)];
    let fields = fields.map(|(name, value)| Header { name, value: value.as_bytes() });
    consumers.identify(&Evidence { fields: &fields, ..Evidence::default() })
}

/// What is announced, as `identifier=name/group`.
fn announced(consumers: &mut Consumers) -> Vec<String> {
    let text = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    consumers
        .take_names()
        .into_iter()
        .map(|it| format!("{}={}/{}", it.identifier, text(it.name), text(it.group)))
        .collect()
}

#[test]
fn a_full_table_knows_the_others_as_one() {
    let mut consumers = Consumers::new(rules().into(), 1);
    let first = request(&mut consumers, "1", "", "");
    let Identified::Consumer(id) = first else { panic!("there is room for one") };
    assert_eq!(consumers.identifier(id), Some("1"));
    assert_eq!(request(&mut consumers, "2", "Two", ""), Identified::NoRoom);
    assert_eq!(request(&mut consumers, "1", "", ""), first);
    assert_eq!(consumers.identifier(ConsumerId::OTHERS), Some(OTHERS));
    assert_eq!(request(&mut consumers, OTHERS, "", ""), Identified::Consumer(ConsumerId::OTHERS));
    assert_eq!(consumers.count(), 1);
    assert_eq!(announced(&mut consumers), Vec::<String>::new());
}

#[test]
fn names_are_announced_when_they_are_new_or_changed() {
    let mut consumers = Consumers::new(rules().into(), 10);
    let mut check = |who, name, group, want: &[&str]| {
        request(&mut consumers, who, name, group);
        assert_eq!(announced(&mut consumers), want, "{who} {name} {group}");
    };
    check("alice", "", "", &[]);
    check("alice", " Alice ", "", &["alice=Alice/-"]);
    check("alice", "Alice", "", &[]);
    check("alice", "", "Admins", &["alice=Alice/Admins"]);
    check("alice", " ", "", &[]);
    check("alice", "Alicia", "Users", &["alice=Alicia/Users"]);
    check("bob", "", "Users", &["bob=-/Users"]);
    check("", "Nobody", "Users", &[]);
    let long = "ü".repeat(65);
    check("carol", &long, "", &[&format!("carol={}/-", "ü".repeat(64))]);
    consumers.resend_names();
    let again = announced(&mut consumers);
    assert_eq!(again.len(), 3);
    assert!(again.contains(&"alice=Alicia/Users".to_owned()), "{again:?}");
    assert_eq!(announced(&mut consumers), Vec::<String>::new());
}

#[test]
fn the_table_decides_where_it_says_something() {
    let first = table(&[("alice", "Alice", ""), ("bob", "", "Users")]);
    let mut consumers = Consumers::new(rules().with_names(first).into(), 10);
    request(&mut consumers, "alice", "Liar", "Admins");
    request(&mut consumers, "bob", "Bob", "Liars");
    request(&mut consumers, "carol", "", "");
    assert_eq!(announced(&mut consumers), ["alice=Alice/Admins", "bob=Bob/Users"]);

    let second = table(&[("alice", "Alice", "Staff"), ("carol", "Carol", "")]);
    consumers.replace_rules(rules().with_names(second).into());
    assert_eq!(announced(&mut consumers), ["alice=Alice/Staff", "carol=Carol/-"]);
    request(&mut consumers, "bob", "", "Free");
    assert_eq!(announced(&mut consumers), ["bob=Bob/Free"], "the table says nothing of bob any more");
}

#[test]
fn one_message_announces_a_bounded_number() {
    let mut consumers = Consumers::new(rules().into(), 5000);
    for who in 0..2500 {
        request(&mut consumers, &who.to_string(), "Name", "");
    }
    let counts = [(); 4].map(|()| announced(&mut consumers).len());
    assert_eq!(counts, [1000, 1000, 500, 0]);
}

#[test]
fn other_rules_keep_who_is_known() {
    let mut consumers = Consumers::new(rules().into(), 10);
    let alice = request(&mut consumers, "alice", "", "");
    let rule = ConsumerRule::new(Source::header("x-name").unwrap());
    consumers.replace_rules(ConsumerRules::new(key(), vec![rule]).unwrap().into());
    assert_eq!(request(&mut consumers, "x", "alice", ""), alice);
    assert_eq!(consumers.count(), 1);
}

#[test]
fn a_full_table_forgets_those_not_seen_for_an_hour() {
    let hour = |hours: u64| Ktime(hours * 3_600_000_000_000);
    let mut consumers = Consumers::new(rules().into(), 4);
    request(&mut consumers, "gone", "", "");
    request(&mut consumers, "unannounced", "Name", "");
    let Identified::Consumer(held) = open(&mut consumers, "open", "", "") else { panic!("there is room") };
    consumers.handle_tick(hour(1));
    consumers.forget_idle();
    assert_eq!(consumers.count(), 3, "a table that is not full forgets nobody");
    let Identified::Consumer(busy) = request(&mut consumers, "busy", "", "") else { panic!("there is room") };
    assert_eq!(request(&mut consumers, "new", "", ""), Identified::NoRoom);
    consumers.forget_idle();
    assert_eq!(consumers.count(), 3);
    assert_eq!((consumers.identifier(held), consumers.identifier(busy)), (Some("open"), Some("busy")));
    let Identified::Consumer(new) = request(&mut consumers, "new", "", "") else {
        panic!("somebody made room")
    };
    assert_eq!(consumers.identifier(new), Some("new"));
    assert_eq!(request(&mut consumers, "gone", "", ""), Identified::NoRoom);
    assert_eq!(announced(&mut consumers), ["unannounced=Name/-"]);
    consumers.forget_idle();
    assert_eq!(consumers.count(), 3, "announced, and forgotten now");
    consumers.release(held);
    request(&mut consumers, "last", "", "");
    consumers.forget_idle();
    assert_eq!(consumers.count(), 3, "its exchange closed, and nothing came since");
}
