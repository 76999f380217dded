use std::process::Command;

use super::*;

/// A process that started when the machine did, and nobody's child, unless said otherwise.
fn process(pid: u32, own: u64, waited: u64) -> Sample {
    Sample { id: ProcessId { pid, started: 0 }, parent: 0, own, waited, memory: 0 }
}

fn child_of(parent: u32, sample: Sample) -> Sample {
    Sample { parent, ..sample }
}

fn check(before: &[Sample], now: &[Sample], used: u64) {
    assert_eq!(used_between(before, now), used, "{before:?} -> {now:?}");
}

#[test]
fn processes_that_stay_add_up() {
    let before = [process(1, 100, 0), child_of(1, process(2, 50, 7))];
    let now = [process(1, 110, 0), child_of(1, process(2, 55, 7))];
    check(&before, &now, 15);
}

#[test]
fn new_process_counts_from_its_beginning() {
    check(&[process(1, 100, 0)], &[process(1, 100, 0), child_of(1, process(2, 30, 4))], 34);
}

#[test]
fn child_that_came_and_went_counts_once() {
    check(&[process(1, 100, 0)], &[process(1, 100, 25)], 25);
}

#[test]
fn child_that_went_counts_from_the_last_look() {
    let before = [process(1, 100, 0), child_of(1, process(2, 50, 3))];
    check(&before, &[process(1, 100, 60)], 7);
}

#[test]
fn zombie_counts_until_it_is_waited_for() {
    let (before, zombie) =
        ([process(1, 0, 0), child_of(1, process(2, 50, 0))], child_of(1, process(2, 58, 0)));
    check(&before, &[process(1, 0, 0), zombie], 8);
    check(&[process(1, 0, 0), zombie], &[process(1, 0, 58)], 0);
}

#[test]
fn what_a_whole_branch_used_comes_to_who_is_left() {
    let before = [process(1, 0, 0), child_of(1, process(2, 10, 0)), child_of(2, process(3, 40, 0))];
    check(&before, &[process(1, 0, 55)], 5);
}

#[test]
fn child_that_nobody_waits_for_takes_nothing_off_the_others() {
    let before = [process(1, 100, 0), child_of(1, process(2, 50, 0)), child_of(1, process(4, 7, 0))];
    check(&before, &[process(1, 105, 0), child_of(1, process(4, 9, 0))], 7);
}

#[test]
fn pid_that_was_taken_again_is_another_process() {
    let again = Sample { id: ProcessId { pid: 2, started: 999 }, ..process(2, 3, 0) };
    check(&[process(1, 0, 0), child_of(1, process(2, 50, 0))], &[process(1, 0, 51), child_of(1, again)], 4);
}

#[test]
fn processes_that_are_each_others_parents_are_no_endless_search() {
    check(&[child_of(2, process(1, 9, 0)), child_of(1, process(2, 9, 0))], &[], 0);
}

#[test]
fn nobody_left_has_used_nothing() {
    check(&[process(1, 9, 0)], &[], 0);
    check(&[], &[], 0);
}

#[test]
fn children_that_are_waited_for_count_in_full() {
    let mut meter = Meter::default();
    assert_eq!(meter.look([std::process::id()]), None);
    let started = Instant::now();
    // Ends by itself after so much CPU time.
    let mut child = Command::new("sh").args(["-c", "ulimit -t 1; while :; do :; done"]).spawn().unwrap();
    child.wait().unwrap();
    let used = meter.look([std::process::id()]).unwrap();
    assert!(used.cpu_time >= Duration::from_millis(950), "{used:?}");
    assert!(used.elapsed >= started.elapsed().mul_f64(0.9) && used.memory > 1_000_000, "{used:?}");
}
