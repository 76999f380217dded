//! What a process runs: its executable, and the script where that is an interpreter.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io::Read as _,
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
};

use wildmatch::WildMatch;

/// Programs that run what they are given as an argument, without the version that may be in their names.
const INTERPRETERS: [&str; 14] = [
    "bash", "bun", "busybox", "dash", "deno", "java", "node", "nodejs", "perl", "php", "pypy", "python",
    "ruby", "sh",
];
/// What is read of a command line, bytes: what an interpreter runs is named at its beginning.
const COMMAND_LINE: u64 = 4096;
/// Longest pattern, bytes: a path is no longer (PATH_MAX).
const LONGEST_GLOB: usize = 4096;

/// The files that a process runs, as they are called in its own mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    exe: String,
    /// The script of an interpreter, or what else it was told to run.
    script: Option<String>,
}

impl Program {
    /// None when the process is gone, or is a kernel thread.
    pub fn of(pid: u32) -> Option<Self> {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let exe = lossy(exe.as_os_str());
        // Replaced by a newer version while it runs.
        let exe = exe.strip_suffix(" (deleted)").map_or(exe.clone(), str::to_owned);
        let script = is_interpreter(&exe).then(|| script(pid)).flatten();
        Some(Self { exe, script })
    }
}

/// Whether it is one by its name: `python3.11`.
fn is_interpreter(exe: &str) -> bool {
    let name = file_name(exe).trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    INTERPRETERS.contains(&name)
}

fn script(pid: u32) -> Option<String> {
    let mut line = Vec::new();
    File::open(format!("/proc/{pid}/cmdline")).ok()?.take(COMMAND_LINE).read_to_end(&mut line).ok()?;
    let args = line.split(|byte| *byte == 0).map(OsStr::from_bytes).map(lossy);
    let script = script_of(args)?;
    // Without a working directory that can be read, as it was written.
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_else(|_| PathBuf::new());
    Some(lossy(cwd.join(script.strip_prefix("./").unwrap_or(&script)).as_os_str()))
}

/// The first argument of an interpreter that is no option; none where an option holds the program itself.
fn script_of(args: impl Iterator<Item = String>) -> Option<String> {
    args.skip(1)
        .take_while(|arg| !matches!(arg.as_str(), "-c" | "-e" | "-p" | "--eval" | "--print"))
        .find(|arg| !arg.starts_with('-') && !arg.is_empty())
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

/// A pattern of programs: `*` stands for any characters, slashes included, `?` for one. With a slash in it, it is
/// compared with whole paths, else with the names of files.
#[derive(Clone, Debug, PartialEq)]
pub struct ExeGlob {
    text: String,
    pattern: WildMatch,
}

impl Eq for ExeGlob {}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    #[error("it is empty; give a program's path or name, such as /usr/sbin/nginx, */bin/gunicorn or nginx")]
    Empty,
    #[error("it is longer than {LONGEST_GLOB} bytes, which no path is")]
    TooLong,
    #[error(
        "{saw:?} matches no program, since paths begin with a slash; give the whole path, or \"*/{saw}\""
    )]
    Relative { saw: String },
}

impl ExeGlob {
    /// # Errors
    /// When no program can match.
    pub fn parse(text: &str) -> Result<Self, GlobError> {
        if text.is_empty() {
            return Err(GlobError::Empty);
        }
        if text.len() > LONGEST_GLOB {
            return Err(GlobError::TooLong);
        }
        if text.contains('/') && !text.starts_with(['/', '*', '?']) {
            return Err(GlobError::Relative { saw: text.to_owned() });
        }
        Ok(Self { text: text.to_owned(), pattern: WildMatch::new(text) })
    }

    /// What it says of the name of the file.
    pub fn file_name(&self) -> &str {
        file_name(&self.text)
    }

    /// Whether it means the executable, or the script that it runs.
    pub fn matches(&self, program: &Program) -> bool {
        let is_meant =
            |path: &str| self.pattern.matches(if self.text.contains('/') { path } else { file_name(path) });
        is_meant(&program.exe) || program.script.as_deref().is_some_and(is_meant)
    }
}

impl fmt::Display for ExeGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn program(exe: &str, script: Option<&str>) -> Program {
        Program { exe: exe.to_owned(), script: script.map(str::to_owned) }
    }

    #[test]
    fn patterns_mean_paths_or_names() {
        let check = |glob: &str, program: &Program, want: bool| {
            assert_eq!(ExeGlob::parse(glob).unwrap().matches(program), want, "{glob} {program:?}");
        };
        let nginx = program("/usr/sbin/nginx", None);
        for glob in ["/usr/sbin/nginx", "*/nginx", "nginx", "/usr/*", "ngin?", "*"] {
            check(glob, &nginx, true);
        }
        for glob in ["/usr/sbin", "/sbin/nginx", "usr*", "ngin", "/usr/sbin/nginx-debug", "NGINX"] {
            check(glob, &nginx, false);
        }
        let gunicorn = program("/usr/bin/python3.11", Some("/srv/app/venv/bin/gunicorn"));
        for glob in ["python3*", "/usr/bin/python3.11", "gunicorn", "*/bin/gunicorn", "/srv/app/*"] {
            check(glob, &gunicorn, true);
        }
        for glob in ["python", "unicorn", "/srv/gunicorn"] {
            check(glob, &gunicorn, false);
        }
    }

    #[test]
    fn patterns_that_match_nothing_are_refused() {
        let error = |text: &str| ExeGlob::parse(text).unwrap_err().to_string();
        assert!(error("").contains("it is empty"));
        assert!(error("bin/nginx").contains("give the whole path, or \"*/bin/nginx\""));
        assert!(error(&"a".repeat(4097)).contains("longer than 4096"));
    }

    #[test]
    fn the_script_of_an_interpreter_is_its_first_argument_that_is_no_option() {
        let check = |line: &str, want: Option<&str>| {
            assert_eq!(script_of(line.split(' ').map(str::to_owned)).as_deref(), want, "{line}");
        };
        check("python3 /usr/bin/gunicorn app:app", Some("/usr/bin/gunicorn"));
        check("python3 -u -m uvicorn main:app", Some("uvicorn"));
        check("node --enable-source-maps server.js", Some("server.js"));
        check("java -Xmx1g -jar /opt/app.jar", Some("/opt/app.jar"));
        check("sh -c nginx", None);
        check("python3 -", None);
        check("ruby", None);
        for (exe, want) in [
            ("/usr/bin/python3.11", true),
            ("/usr/bin/node", true),
            ("/bin/sh", true),
            ("/usr/bin/php8.2", true),
            ("/usr/sbin/nginx", false),
            ("/usr/bin/vim", false),
            ("/usr/bin/pythonista", false),
        ] {
            assert_eq!(is_interpreter(exe), want, "{exe}");
        }
    }

    #[test]
    fn a_running_script_is_found_by_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("serve.sh"), "#!/bin/sh\necho ready\nread line\n").unwrap();
        let start = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.args(args).current_dir(dir.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            // It runs what it is to run once it says so.
            child.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
            child
        };
        let mut child = start("sh", &["./serve.sh"]);
        let found = Program::of(child.id()).unwrap();
        let path = fs::canonicalize(dir.path()).unwrap().join("serve.sh");
        assert_eq!(found.script.as_deref(), path.to_str());
        assert!(ExeGlob::parse("serve.sh").unwrap().matches(&found));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(Program::of(child.id()), None);
    }
}
