//! Waiting. Nothing else in the tests sleeps.

use std::thread;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(5);

/// Asks again and again until `check` gives an answer, and returns it.
///
/// # Panics
/// When there is none `within` the time allowed; `what` says what did not happen.
pub fn eventually<T>(what: &str, within: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(answer) = check() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        thread::sleep(PAUSE);
    }
}

/// Lets time pass in which nothing should happen. For measurements over a span of time, not for waiting.
pub fn let_pass(span: Duration) {
    thread::sleep(span);
}
