//! One thing that takes a while: says what it is, shows that it lives, keeps its output in a file, and shows the
//! end of that when it failed. On a terminal a spinner with the last line of output; elsewhere plain lines.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::workspace;

/// Without a terminal, a sign of life this often.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);
/// A step that took less is not worth a second line.
const SHORT: Duration = Duration::from_secs(3);
const TAIL_LINES: usize = 60;

/// Runs the command to its end.
///
/// # Errors
/// When it cannot be started or does not end well; the end of its output has been printed then.
pub fn run(what: &str, command: &mut Command) -> Result<()> {
    run_watching(what, command, |_| ())
}

/// Likewise, and hands each line that the command prints to `on_line`.
///
/// # Errors
/// As [`run`].
pub fn run_watching(what: &str, command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<()> {
    let log_path = log_path(what);
    fs::create_dir_all(log_path.parent().expect("it is below target")).context("cannot keep a log")?;
    let mut log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    writeln!(log, "{command:?}").context("cannot write the log")?;

    let progress = Progress::start(what);
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("cannot share a pipe")?).stderr(writer);
    let spawned = command.spawn();
    // The command holds the writing end; as long as it does, the reading end does not end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            progress.failed();
            bail!("{what}: cannot start `{}`: {error}", command.get_program().display())
        }
    };

    let (sender, lines) = mpsc::sync_channel(64);
    let printing = thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    let mut tail = Vec::new();
    loop {
        match lines.recv_timeout(SIGN_OF_LIFE) {
            Ok(line) => {
                let _ = writeln!(log, "{line}");
                on_line(&line);
                progress.line(&line);
                tail.push(line);
                if tail.len() > 2 * TAIL_LINES {
                    tail.drain(..TAIL_LINES);
                }
            }
            Err(RecvTimeoutError::Timeout) => progress.sign_of_life(),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().context("cannot wait for a command")?;
    let _ = printing.join();
    if status.success() {
        progress.done();
        return Ok(());
    }
    progress.failed();
    for line in &tail[tail.len().saturating_sub(TAIL_LINES)..] {
        eprintln!("    {line}");
    }
    bail!("{what}: `{}` ended with {status}; all it said is in {}", short(command), log_path.display())
}

/// Where the output of a step is kept.
pub fn log_path(what: &str) -> PathBuf {
    let name: String =
        what.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    workspace::root().join("target/xtask").join(format!("{name}.log"))
}

fn short(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

struct Progress {
    what: String,
    started: Instant,
    /// None without a terminal.
    spinner: Option<ProgressBar>,
    last_sign: std::cell::Cell<Instant>,
}

impl Progress {
    fn start(what: &str) -> Self {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{spinner:.cyan} {prefix} {elapsed:.dim} {wide_msg:.dim}")
                    .expect("the template is right");
            let spinner = ProgressBar::new_spinner().with_style(style).with_prefix(what.to_owned());
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        if spinner.is_none() {
            println!("{what} ...");
        }
        let now = Instant::now();
        Self { what: what.to_owned(), started: now, spinner, last_sign: now.into() }
    }

    fn line(&self, line: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(line.trim().to_owned()),
            None if self.last_sign.get().elapsed() >= SIGN_OF_LIFE => self.sign_of_life(),
            None => {}
        }
    }

    fn sign_of_life(&self) {
        if self.spinner.is_none() {
            println!("  ... still at it after {} s", self.started.elapsed().as_secs());
            self.last_sign.set(Instant::now());
        }
    }

    fn done(self) {
        let took = self.started.elapsed();
        match self.spinner {
            Some(spinner) => {
                spinner.finish_and_clear();
                println!("\u{2713} {} ({:.1} s)", self.what, took.as_secs_f32());
            }
            None if took >= SHORT => println!("  done after {:.0} s", took.as_secs_f32()),
            None => {}
        }
    }

    fn failed(self) {
        if let Some(spinner) = self.spinner {
            spinner.finish_and_clear();
            println!("\u{2717} {}", self.what);
        }
    }
}
