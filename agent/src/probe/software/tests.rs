use std::{
    fs,
    os::unix::fs::symlink,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::*;

/// A process as it would look that was started in `/app` of a made-up root, with these files.
fn facts(root: &TempDir, exe: &str, command: &str, variables: &[(&str, &str)]) -> Facts {
    Facts {
        root: Root::open(root.path()).unwrap(),
        exe: exe.into(),
        args: command.split(' ').map(str::to_owned).collect(),
        variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        cwd: "/app".into(),
        mapped: BTreeSet::new(),
    }
}

fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn check(facts: &Facts, client: Option<&str>, components: &[(&str, &str)]) {
    let found = software(facts).unwrap_or_default();
    let components = components.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned()));
    let want = Software { client: client.map(str::to_owned), components: components.collect() };
    assert_eq!(found, want, "{:?}", facts.args);
}

const PACKAGES: &str = "venv/lib/python3.11/site-packages";

/// A virtual environment with these packages.
fn environment(packages: &[&str], more: &[(&str, &str)]) -> TempDir {
    let mut files: Vec<(String, &str)> =
        packages.iter().map(|package| (format!("{PACKAGES}/{package}.dist-info/METADATA"), "")).collect();
    files.push(("venv/pyvenv.cfg".to_owned(), "home = /usr/bin\nversion = 3.11.7\n"));
    files.extend(more.iter().map(|(path, text)| ((*path).to_owned(), *text)));
    tree(&files.iter().map(|(path, text)| (path.as_str(), *text)).collect::<Vec<_>>())
}

const PYTHON: &str = "/usr/bin/python3.11";

#[test]
fn only_framework_installed_is_the_one() {
    let root =
        environment(&["uvicorn-0.54.0", "FastAPI-0.165.0", "starlette-1.10.0", "requests-2.34.2"], &[]);
    check(
        &facts(&root, PYTHON, "/venv/bin/python /venv/bin/uvicorn main:app", &[]),
        Some("python:starlette"),
        &[("fastapi", "0.165.0"), ("python", "3.11.7"), ("starlette", "1.10.0"), ("uvicorn", "0.54.0")],
    );
}

#[test]
fn of_several_frameworks_the_one_that_is_served() {
    let packages = ["gunicorn-27.0.1", "Django-5.2.19", "django_ninja-1.7.1", "flask-3.1.3"];
    let root = environment(
        &packages,
        &[
            ("app/shop/wsgi.py", "import os\nfrom django.core.wsgi import get_wsgi_application\n"),
            ("app/both.py", "import flask\nimport django\n"),
            ("app/later.py", "def app():\n    import flask\n"),
        ],
    );
    let ninja =
        [("django", "5.2.19"), ("django-ninja", "1.7.1"), ("gunicorn", "27.0.1"), ("python", "3.11.7")];
    let neither = [("gunicorn", "27.0.1"), ("python", "3.11.7")];
    let gunicorn =
        |app: &str| facts(&root, PYTHON, &format!("/venv/bin/python3 /venv/bin/gunicorn -w 2 {app}"), &[]);
    check(&gunicorn("shop.wsgi:application"), Some("python:django"), &ninja);
    check(&gunicorn("both:app"), None, &neither);
    check(&gunicorn("later:app"), None, &neither);
    check(&gunicorn("missing:app"), None, &neither);
    check(&facts(&root, PYTHON, "/venv/bin/python manage.py runserver", &[]), Some("python:django"), &ninja);
    let settings = [("DJANGO_SETTINGS_MODULE", "shop.settings"), ("VIRTUAL_ENV", "/venv")];
    check(&facts(&root, PYTHON, "python -m whatever", &settings), Some("python:django"), &ninja);
}

#[test]
fn system_packages_count_outside_of_environments_alone() {
    let system = ("usr/lib/python3/dist-packages/Flask-2.2.2.egg-info/PKG-INFO", "");
    check(
        &facts(&tree(&[system]), PYTHON, "/usr/bin/python3 -m app", &[]),
        Some("python:flask"),
        &[("flask", "2.2.2"), ("python", "3.11")],
    );
    let root = environment(&["Django-5.2.19"], &[system]);
    check(
        &facts(&root, PYTHON, "/venv/bin/python -m app", &[]),
        Some("python:django"),
        &[("django", "5.2.19"), ("python", "3.11.7")],
    );
}

const NODE: &str = "/usr/bin/node";

#[test]
fn node_is_told_by_its_script_then_the_manifest_then_what_is_installed() {
    let root = tree(&[
        ("app/server.js", "const app = require('fastify')()"),
        ("app/plain.js", "require('./routes')"),
        ("app/package.json", r#"{"dependencies": {"express": "^5"}}"#),
        ("app/node_modules/express/package.json", r#"{"version": "5.3.0"}"#),
        ("app/node_modules/fastify/package.json", r#"{"version": "5.12.8"}"#),
        ("bare/index.js", ""),
        ("modules/koa/package.json", r#"{"version": "3.0.1"}"#),
        (
            "usr/include/node/node_version.h",
            "#define NODE_MAJOR_VERSION 20\n#define NODE_MINOR_VERSION 20\n#define NODE_PATCH_VERSION 2\n",
        ),
    ]);
    let node = ("nodejs", "20.20.2");
    check(
        &facts(&root, NODE, "node --inspect server.js", &[]),
        Some("js:fastify"),
        &[("fastify", "5.12.8"), node],
    );
    check(&facts(&root, NODE, "node plain", &[]), Some("js:express"), &[("express", "5.3.0"), node]);
    check(
        &facts(&root, NODE, "node /bare", &[("NODE_PATH", "/modules")]),
        Some("js:koa"),
        &[("koa", "3.0.1"), node],
    );
    check(&facts(&root, NODE, "node /bare", &[]), None, &[node]);
}

#[test]
fn java_says_its_version() {
    let root = tree(&[("opt/jdk/release", "IMPLEMENTOR=\"Debian\"\nJAVA_VERSION=\"17.0.9\"\n")]);
    check(&facts(&root, "/opt/jdk/bin/java", "java -jar app.jar", &[]), None, &[("java", "17.0.9")]);
}

#[test]
fn versions_that_are_none_are_left_out() {
    for text in ["", "unknown", "1.0\n", "1.0 \u{1b}[31m", &"1".repeat(65)] {
        assert_eq!(version(text), None, "{text:?}");
    }
    assert_eq!(version("5.3.0-beta.1+build_7").as_deref(), Some("5.3.0-beta.1+build_7"));
}

#[test]
fn nothing_outside_of_the_root_is_read() {
    let (outside, root) = (tree(&[("secret", "found")]), tree(&[("inside", "found")]));
    let link = |to: &Path, name: &str| symlink(to, root.path().join(name)).unwrap();
    link(&outside.path().join("secret"), "absolute");
    link(Path::new("../../../../../../../../etc/passwd"), "up");
    link(Path::new("/inside"), "own");
    link(Path::new("loop"), "loop");
    let view = Root::open(root.path()).unwrap();
    assert_eq!(view.text(Path::new("/own")).as_deref(), Some("found"));
    for path in ["/absolute", "/up", "/../../etc/passwd", "/loop"] {
        assert_eq!(view.text(Path::new(path)), None, "{path}");
    }
    let host = Root::open(Path::new("/")).unwrap();
    assert_eq!(host.text(Path::new("/proc/self/root/etc/passwd")), None, "through a link of /proc");
}

#[test]
fn what_is_no_file_is_not_opened() {
    let root = tree(&[]);
    let path = root.path().join("pipe");
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let (view, started) = (Root::open(root.path()).unwrap(), Instant::now());
    assert_eq!(view.text(Path::new("/pipe")), None);
    assert_eq!(view.text(Path::new("/")), None);
    assert!(view.names(Path::new("/pipe")).is_empty());
    assert_eq!(Root::open(Path::new("/")).unwrap().text(Path::new("/dev/zero")), None);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn large_files_and_directories_are_read_in_part() {
    let root = tree(&[("large", &"x".repeat(2 * 1024 * 1024))]);
    for name in 0..9000 {
        fs::write(root.path().join(format!("{name}")), "").unwrap();
    }
    let view = Root::open(root.path()).unwrap();
    assert!(view.text(Path::new("/large")).unwrap().len() <= 512 * 1024);
    assert!(view.names(Path::new("/")).len() <= 8192);
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_living_process_is_looked_at() {
    let mut python = Command::new("python3");
    python.args(["-c", "input()"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let child = Running(python.spawn().expect("Python is there, as the end-to-end tests need it too"));
    let deadline = Instant::now() + Duration::from_secs(10);
    // Between fork and exec it is still us.
    let found = loop {
        let found = detect(&[child.0.id()]);
        if found.components.contains_key("python") {
            break found;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        thread::yield_now();
    };
    assert!(found.components["python"].starts_with("3."), "{found:?}");
}

#[test]
fn nothing_is_known_of_a_process_that_is_gone() {
    assert_eq!(detect(&[4_000_000]), Software::default());
}
