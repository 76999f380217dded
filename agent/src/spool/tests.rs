use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use tokio::runtime;

use super::*;

const OLD: Kind = Kind(1);
const PLAIN: Kind = Kind(2);
const HOUR: Duration = Duration::from_secs(3600);

static KINDS: [KindRules; 2] = [
    KindRules { kind: PLAIN, messages: 40, per_source: 20, newest_only: false, max_age: Some(HOUR) },
    KindRules { kind: OLD, messages: 3, per_source: 1, newest_only: true, max_age: None },
];
const RULES: Rules = Rules { bytes: 10_000, messages: 50, kinds: &KINDS };

fn at(second: u64) -> Moment {
    let boot = Uuid::from_u128(0xb007);
    Moment {
        wall: Duration::from_secs(1_800_000_000 + second),
        boot,
        since_boot: Duration::from_secs(second),
    }
}

/// Message `n` of a source: its identity is the number, its body says it.
fn message(kind: Kind, source: u128, n: u128, second: u64) -> Entry {
    let label =
        Label { kind, message: Uuid::from_u128(n), source: Uuid::from_u128(source), made: at(second) };
    Entry { label, body: format!("message {n}").into_bytes() }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn open(dir: &Path, second: u64) -> Spool {
    Spool::open(Some(dir), "a hub", RULES, &at(second))
}

impl Spool {
    fn put(&mut self, kind: Kind, source: u128, n: u128, second: u64) -> Id {
        self.push(message(kind, source, n, second), None, &at(second))
    }

    fn settle_all(&mut self) {
        wait(async {
            while self.writing() > 0 {
                self.outcome().await;
            }
        });
    }

    /// Every message that can be had, checked to be what was put in.
    fn contents(&self) -> Vec<u128> {
        let read = self.items().map(|item| {
            let entry = wait(self.load(item.id)).expect("it can be read");
            assert_eq!(entry.label, item.label);
            let n = item.label.message.as_u128();
            assert_eq!(entry.body, format!("message {n}").into_bytes());
            n
        });
        read.collect()
    }
}

/// Ends it as a death does, but for what was under way.
fn end(mut spool: Spool) {
    spool.settle_all();
    wait(close(spool));
}

async fn close(spool: Spool) -> usize {
    spool.close(time::Instant::now() + HOUR).await
}

fn messages_in(dir: &Path) -> Vec<PathBuf> {
    let dirs = fs::read_dir(dir.join("spool")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        dirs.flat_map(|dir| fs::read_dir(dir).unwrap()).map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "msg"));
    files.sort();
    files
}

#[test]
fn messages_are_there_again_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 0);
    (1..=12).for_each(|n| _ = spool.put(PLAIN, 1, n, 0));
    spool.settle_all();
    let third = spool.items().nth(2).unwrap().id;
    spool.remove(third);
    end(spool);
    let mut spool = open(dir.path(), 1);
    assert_eq!(spool.contents(), [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(spool.state().recovered, 11);
    spool.put(PLAIN, 1, 13, 1);
    end(spool);
    assert_eq!(open(dir.path(), 2).contents(), [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
}

#[test]
fn only_what_is_on_disk_is_offered() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 0);
    spool.put(PLAIN, 1, 1, 0);
    assert_eq!((spool.len(), spool.writing(), spool.state().in_memory), (1, 1, 1));
    assert_eq!(spool.items().count(), 0);
    spool.settle_all();
    assert_eq!((spool.contents(), spool.state().in_memory), (vec![1], 0));
    assert_eq!(messages_in(dir.path()).len(), 1);
}

#[test]
fn what_is_on_disk_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(&dir.path().join("made/on/demand"), 0);
    spool.put(PLAIN, 1, 1, 0);
    spool.settle_all();
    let file = messages_in(&dir.path().join("made/on/demand")).remove(0);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert!(file.ancestors().skip(1).take(2).all(|dir| mode(dir) == 0o700));
}

/// A power failure may leave any beginning of a file: no other message suffers, and none comes twice.
#[test]
fn a_file_cut_at_any_length_costs_that_message_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 0);
    (1..=3).for_each(|n| _ = spool.put(PLAIN, 1, n, 0));
    end(spool);
    let files = messages_in(dir.path());
    let whole = fs::read(&files[1]).unwrap();
    for len in 0..whole.len() {
        fs::write(&files[1], &whole[..len]).unwrap();
        let spool = open(dir.path(), 1);
        assert_eq!(spool.contents(), [1, 3], "cut to {len} bytes");
        assert_eq!(spool.state().given_up.damaged, 1);
        assert!(!files[1].exists());
        end(spool);
    }
    fs::write(&files[1], &whole).unwrap();
    assert_eq!(open(dir.path(), 1).contents(), [1, 2, 3]);
}

/// A death may come at any byte of writing.
#[test]
fn what_was_not_written_to_its_end_is_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 0);
    (1..=2).for_each(|n| _ = spool.put(PLAIN, 1, n, 0));
    end(spool);
    let second = messages_in(dir.path()).remove(1);
    let whole = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    let unfinished = second.with_extension("tmp");
    for len in 0..=whole.len() {
        fs::write(&unfinished, &whole[..len]).unwrap();
        let spool = open(dir.path(), 1);
        assert_eq!((spool.contents(), spool.state().given_up), (vec![1], GivenUp::default()));
        assert!(!unfinished.exists());
        end(spool);
    }
}

#[test]
fn a_message_that_is_damaged_later_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 0);
    let id = spool.put(PLAIN, 1, 1, 0);
    spool.settle_all();
    fs::write(&messages_in(dir.path())[0], "no message").unwrap();
    assert_eq!(wait(spool.load(id)), None);
    spool.give_up_damaged(id);
    spool.give_up_damaged(id);
    assert_eq!((spool.len(), spool.state().given_up.damaged), (0, 1));
    end(spool);
    assert_eq!(messages_in(dir.path()).len(), 0);
}

#[test]
fn files_of_others_are_left_alone_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    end(open(dir.path(), 0));
    let slot = fs::read_dir(dir.path().join("spool")).unwrap().next().unwrap().unwrap().path();
    let foreign = ["readme.txt", "0000.msg", "000000000000000G.msg", "00000000000000AB.msg"];
    foreign.iter().for_each(|name| fs::write(slot.join(name), "hello").unwrap());
    std::os::unix::fs::symlink("/etc/passwd", slot.join("0000000000000001.msg")).unwrap();
    fs::create_dir(slot.join("0000000000000002.msg")).unwrap();
    fs::write(slot.join("0000000000000003.msg"), vec![b'x'; 100_000]).unwrap();
    let mut spool = open(dir.path(), 0);
    assert_eq!((spool.state().foreign, spool.state().given_up.damaged, spool.len()), (4, 3, 0));
    assert!(foreign.iter().all(|name| slot.join(name).exists()));
    assert!(Path::new("/etc/passwd").exists());
    (1..=5).for_each(|n| _ = spool.put(PLAIN, 1, n, 0));
    spool.settle_all();
    assert_eq!(spool.contents(), [1, 2, 3, 4, 5], "a directory in the way costs nothing");
}

#[test]
fn two_agents_never_share_a_directory_and_what_one_left_the_next_takes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut first, mut second) = (open(dir.path(), 0), open(dir.path(), 0));
    (1..=2).for_each(|n| _ = first.put(PLAIN, 1, n, 0));
    (11..=12).for_each(|n| _ = second.put(PLAIN, 2, n, 0));
    second.settle_all();
    let third = open(dir.path(), 0);
    assert_eq!(third.len(), 0, "both are alive");
    end(third);
    end(second);
    assert_eq!(open(dir.path(), 0).contents(), [11, 12]);
    end(first);
    let spool = open(dir.path(), 0);
    assert_eq!(spool.contents(), [1, 2, 11, 12]);
    end(spool);
    assert_eq!(fs::read_dir(dir.path().join("spool")).unwrap().count(), 1, "empty ones are removed");
}

#[test]
fn destinations_are_apart_and_forgotten_ones_are_removed_after_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let mut other = Spool::open(Some(dir.path()), "another hub", RULES, &at(0));
    other.put(PLAIN, 1, 1, 0);
    end(other);
    end(open(dir.path(), 24 * 3600));
    assert_eq!(messages_in(dir.path()).len(), 1);
    end(open(dir.path(), 24 * 3600 + 1));
    assert_eq!(fs::read_dir(dir.path().join("spool")).unwrap().count(), 1);
    let names = fs::read_dir(dir.path().join("spool")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| !name.to_string_lossy().contains("hub")));
}

#[test]
fn without_a_directory_messages_are_in_memory_and_it_shows() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut spool = open(file.path(), 0);
    (1..=3).for_each(|n| _ = spool.put(PLAIN, 1, n, 0));
    assert_eq!(spool.contents(), [1, 2, 3]);
    let state = spool.state();
    assert_eq!((state.messages, state.in_memory), (3, 3));
    assert!(state.degraded.unwrap().contains("Not a directory"));
    assert_eq!(wait(close(spool)), 0);
}

#[test]
fn a_directory_that_others_may_write_to_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("spool")).unwrap();
    fs::set_permissions(dir.path().join("spool"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(open(dir.path(), 0).state().degraded.unwrap().contains("others may write to it"));
}

/// A directory that vanishes fails as a full disk does.
#[test]
fn a_disk_that_fails_for_a_while_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 0);
    spool.put(PLAIN, 1, 1, 0);
    spool.settle_all();
    let slot = messages_in(dir.path()).remove(0).parent().unwrap().to_owned();
    let away = dir.path().join("away");
    fs::rename(&slot, &away).unwrap();
    (2..=3).for_each(|n| _ = spool.put(PLAIN, 1, n, 0));
    spool.settle_all();
    assert_eq!((spool.state().in_memory, spool.state().degraded.is_some()), (2, true));
    fs::rename(&away, &slot).unwrap();
    assert_eq!(spool.contents(), [1, 2, 3]);
    spool.put(PLAIN, 1, 4, 0);
    spool.settle_all();
    assert_eq!((spool.state().in_memory, spool.state().degraded.clone()), (0, None));
    end(spool);
    assert_eq!(open(dir.path(), 0).contents(), [1, 2, 3, 4]);
}

#[test]
fn bounds_hold_and_the_oldest_goes() {
    let mut spool = Spool::open(None, "", RULES, &at(0));
    spool.put(OLD, 1, 1000, 0);
    (0..25).for_each(|n| _ = spool.put(PLAIN, 1, n, 0));
    assert_eq!((spool.len(), spool.state().given_up.full), (21, 5));
    (100..125).for_each(|n| _ = spool.put(PLAIN, 2, n, 0));
    (200..210).for_each(|n| _ = spool.put(PLAIN, 3, n, 0));
    let kept: Vec<u128> = std::iter::once(1000).chain(15..25).chain(105..125).chain(200..210).collect();
    assert_eq!(spool.contents(), kept, "of a source, and of a kind");

    let large = |n, len| Entry { body: vec![b'x'; len], ..message(PLAIN, 4, n, 0) };
    spool.push(large(300, 9_980), None, &at(0));
    let left: Vec<u128> = spool.items().map(|item| item.label.message.as_u128()).collect();
    assert_eq!(left, [1000, 300], "the kind that is listed last goes last");
    spool.push(large(301, 20_000), None, &at(0));
    let left: Vec<u128> = spool.items().map(|item| item.label.message.as_u128()).collect();
    assert_eq!((left, spool.state().bytes), (vec![301], 20_000), "the newest stays");
    assert_eq!(spool.state().given_up.full, 5 + 5 + 10 + 40 + 2);
}

#[test]
fn a_newer_one_takes_the_place_of_its_kind() {
    let mut spool = Spool::open(None, "", RULES, &at(0));
    [(1, 1), (2, 2), (1, 3)].into_iter().for_each(|(source, n)| _ = spool.put(OLD, source, n, 0));
    assert_eq!((spool.contents(), spool.state().given_up.full), (vec![2, 3], 0));
    [(3, 4), (4, 5)].into_iter().for_each(|(source, n)| _ = spool.put(OLD, source, n, 0));
    assert_eq!((spool.contents(), spool.state().given_up.full), (vec![3, 4, 5], 1));
}

#[test]
fn messages_live_for_an_hour_also_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 100);
    [(1, 100), (2, 101)].into_iter().for_each(|(n, second)| _ = spool.put(PLAIN, 1, n, second));
    spool.put(OLD, 1, 3, 0);
    end(spool);
    let mut spool = open(dir.path(), 3701);
    assert_eq!((spool.contents(), spool.state().given_up.too_old), (vec![2, 3], 1));
    spool.expire(&at(3702));
    assert_eq!((spool.contents(), spool.state().given_up.too_old), (vec![3], 2));
    end(spool);
    assert_eq!(messages_in(dir.path()).len(), 1);
}

#[test]
fn a_clock_that_is_set_neither_drops_nor_keeps() {
    const DAYS: Duration = Duration::from_secs(5 * 24 * 3600);
    let set = |second: u64, wall: fn(Duration) -> Duration| {
        let now = at(second);
        Moment { wall: wall(now.wall), ..now }
    };
    let another_boot = |now: Moment| Moment { boot: Uuid::from_u128(2), ..now };
    let forward = |wall| wall + DAYS;
    let back = |wall| wall - DAYS;
    for wall in [forward, back] {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = open(dir.path(), 0);
        spool.put(PLAIN, 1, 1, 0);
        spool.settle_all();
        spool.expire(&set(3600, wall));
        assert_eq!(spool.len(), 1);
        end(spool);
        // Another agent, the machine was not restarted.
        let mut spool = Spool::open(Some(dir.path()), "a hub", RULES, &set(3600, wall));
        assert_eq!(spool.len(), 1);
        spool.expire(&set(3601, wall));
        assert_eq!((spool.len(), spool.state().given_up.too_old), (0, 1));
    }
    // The machine was restarted, and knows no better than that the message is from the future.
    let dir = tempfile::tempdir().unwrap();
    let mut spool = open(dir.path(), 5000);
    spool.put(PLAIN, 1, 1, 5000);
    end(spool);
    let mut spool = Spool::open(Some(dir.path()), "a hub", RULES, &another_boot(set(10, back)));
    assert_eq!(spool.len(), 1);
    spool.expire(&another_boot(set(3610, forward)));
    assert_eq!(spool.len(), 1);
    spool.expire(&another_boot(set(3611, forward)));
    assert_eq!(spool.len(), 0);
}

#[test]
fn receipts_are_settled_by_the_disk_by_delivery_and_by_giving_up() {
    let dir = tempfile::tempdir().unwrap();
    let left = |spool: &Spool| {
        let known = |life| spool.settled().get(&life).copied();
        Account::claim(dir.path(), "shop", known).unwrap().1.counted
    };
    let mut spool = open(dir.path(), 0);
    let account = Arc::new(Account::claim(dir.path(), "shop", |_| None).unwrap().0);
    account.note(30, 0);
    let push = |spool: &mut Spool, n| {
        spool.push(message(PLAIN, 1, n, 0), Some(account.receipt(10)), &at(0));
        spool.settle_all();
    };
    push(&mut spool, 1);
    // No longer on disk.
    let slot = messages_in(dir.path()).remove(0).parent().unwrap().to_owned();
    fs::rename(&slot, dir.path().join("away")).unwrap();
    push(&mut spool, 2);
    push(&mut spool, 3);
    let second = spool.items().nth(1).unwrap().id;
    spool.remove(second);
    fs::rename(dir.path().join("away"), &slot).unwrap();
    wait(close(spool));
    drop(account);
    assert_eq!(left(&open(dir.path(), 0)), 10);
}

/// Whatever is done, and whenever it ends: what was pushed and not taken is there again, once, in order.
#[test]
fn nothing_is_lost_or_doubled_in_random_lives() {
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let (mut expected, mut n) = (Vec::new(), 0);
        for _life in 0..6 {
            let mut spool = open(dir.path(), 0);
            assert_eq!(spool.contents(), expected, "seed {seed}");
            for _ in 0..random.usize(..12) {
                if random.bool() && expected.len() < 20 {
                    n += 1;
                    spool.put(PLAIN, 1, n, 0);
                    expected.push(n);
                } else if !expected.is_empty() {
                    spool.settle_all();
                    let which = random.usize(..expected.len());
                    let id = spool.items().nth(which).unwrap().id;
                    spool.remove(id);
                    expected.remove(which);
                }
            }
            // Sometimes with work under way, which the thread ends by itself.
            if random.bool() {
                spool.settle_all();
            }
            wait(close(spool));
        }
    }
}
