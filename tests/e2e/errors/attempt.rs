//! A run of the agent that should end by itself.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tests::agent::binary;
use tests::app::App;
use tests::client::Request;
use tests::eventually::eventually;
use tests::scratch::Scratch;

/// Saying no takes a fraction of a second; a machine under load may take its time all the same.
const PATIENCE: Duration = Duration::from_secs(30);

pub const USAGE: i32 = 64;
pub const NO_INPUT: i32 = 66;
pub const UNAVAILABLE: i32 = 69;
pub const NO_PERMISSION: i32 = 77;
pub const CONFIG: i32 = 78;

/// A command line of the agent, and where it runs.
#[derive(Debug)]
pub struct Attempt {
    what: String,
    command: Command,
    dir: Scratch,
}

/// What became of it.
#[derive(Debug)]
pub struct Outcome {
    what: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Attempt {
    pub fn of(args: &str) -> Self {
        Self::through(&[], args)
    }

    /// Started by another program, which becomes the agent or ends with its exit code.
    pub fn through(wrapper: &[&str], args: &str) -> Self {
        let mut words = wrapper.iter().map(Into::into).chain([binary().into_os_string()]);
        let mut command = Command::new(words.next().expect("the agent is one of them"));
        command.args(words).args(args.split_whitespace());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("APITALLY_") {
                command.env_remove(name);
            }
        }
        let what = format!("{} {args}", wrapper.join(" ")).trim().to_owned();
        Self { what, command, dir: Scratch::new("attempt") }
    }

    /// One argument as it is, blanks and all.
    pub fn arg(mut self, arg: &str) -> Self {
        self.what += &format!(" {arg:?}");
        self.command.arg(arg);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.what = format!("{name}={value:?} {}", self.what);
        self.command.env(name, value);
        self
    }

    /// Changes the command in a way that `what` names.
    pub fn with(mut self, what: &str, change: impl FnOnce(&mut Command)) -> Self {
        self.what = format!("({what}) {}", self.what);
        change(&mut self.command);
        self
    }

    /// Waits for the end.
    pub fn run(self) -> Outcome {
        self.run_while(|| ())
    }

    /// Waits for the end, and has the target serve requests all the while and one more afterwards.
    pub fn run_beside(self, app: &App) -> Outcome {
        let mut client = app.client();
        let outcome = self.run_while(|| {
            assert_eq!(client.send(&Request::get("/items")).exchange.status, 200, "while the agent runs");
        });
        assert_serves(app);
        outcome
    }

    /// Waits for the end, and does something again and again meanwhile.
    pub fn run_while(mut self, mut meanwhile: impl FnMut()) -> Outcome {
        let output = |name| File::create(self.dir.join(name)).expect("a fresh directory can be written to");
        let command = self.command.stdin(Stdio::null()).process_group(0);
        command.stdout(output("stdout")).stderr(output("stderr"));
        let mut running = Running(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
        let status = eventually(&format!("{} ends", self.what), PATIENCE, || {
            meanwhile();
            running.0.try_wait().expect("it is our child")
        });
        let printed = |name| fs::read_to_string(self.dir.join(name)).expect("the agent prints UTF-8");
        Outcome { what: self.what, code: status.code(), stdout: printed("stdout"), stderr: printed("stderr") }
    }
}

impl Outcome {
    /// Refused with this exit code and one line of the agent's log, which has all these parts.
    #[track_caller]
    pub fn assert_refused(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        let [line] = self.stderr.lines().collect::<Vec<_>>()[..] else {
            panic!("that is not one line: {self:#?}");
        };
        let Some((_, message)) = line.split_once(" ERROR ") else { panic!("no error: {self:#?}") };
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {self:#?}");
        }
        assert_eq!(self.stdout, "", "{}", self.what);
        self.record(message);
    }

    /// Refused by the parser of the command line, whose messages have more lines.
    #[track_caller]
    pub fn assert_usage_error(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(USAGE), "{self:#?}");
        assert!(self.stderr.starts_with("error: "), "{self:#?}");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in {self:#?}");
        }
        self.record(self.stderr.lines().next().unwrap_or_default());
    }

    /// Ended well, and printed all these parts.
    #[track_caller]
    pub fn assert_printed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(self.stderr, "", "{self:#?}");
        for part in parts {
            assert!(self.stdout.contains(part), "{part:?} is not in {self:#?}");
        }
        self.record("");
    }

    /// For whoever runs the tests with --nocapture.
    fn record(&self, message: &str) {
        eprintln!("{} -> {} -> {message}", self.what, self.code.unwrap_or(-1));
    }
}

/// The target answers, on a connection of its own.
#[track_caller]
pub fn assert_serves(app: &App) {
    assert_eq!(app.client().send_fresh(&Request::get("/items")).exchange.status, 200, "afterwards");
}

/// Killed with what it started.
#[derive(Debug)]
pub struct Running(pub Child);

impl Running {
    pub fn terminate(&self) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.0), Signal::TERM);
    }

    /// Its exit code, and how long that took.
    pub fn wait(&mut self) -> (Option<i32>, Duration) {
        let asked = Instant::now();
        let status = tests::process::wait_for(&mut self.0, PATIENCE);
        (status.code(), asked.elapsed())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}
