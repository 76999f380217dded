//! Python: packages leave a directory with their name and version beside them, and servers are told by name which
//! module to serve.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::{Facts, Software, file_name, only, version};

/// What a package says about the framework, if it is one; FastAPI is the hub's `python:starlette`.
const FRAMEWORKS: [(&str, &str); 8] = [
    ("blacksheep", "python:blacksheep"),
    ("django", "python:django"),
    ("django-ninja", "python:django"),
    ("djangorestframework", "python:django"),
    ("fastapi", "python:starlette"),
    ("flask", "python:flask"),
    ("litestar", "python:litestar"),
    ("starlette", "python:starlette"),
];
/// Modules that are not called like their package.
const MODULES: [(&str, &str); 2] = [("ninja", "django-ninja"), ("rest_framework", "djangorestframework")];
const SERVERS: [&str; 7] = ["daphne", "granian", "gunicorn", "hypercorn", "uvicorn", "uwsgi", "waitress"];
/// Programs that serve one framework alone, by the name of their script.
const COMMANDS: [(&str, &str); 5] = [
    ("django-admin", "python:django"),
    ("fastapi", "python:starlette"),
    ("flask", "python:flask"),
    ("litestar", "python:litestar"),
    ("manage.py", "python:django"),
];

pub(super) fn software(facts: &Facts) -> Software {
    let packages = packages(facts);
    let client = client(facts, &packages);
    let mut components = BTreeMap::new();
    components.extend(interpreter(facts).map(|version| ("python".to_owned(), version)));
    let frameworks = FRAMEWORKS.iter().filter(|(_, of)| Some(*of) == client).map(|(package, _)| *package);
    for name in SERVERS.into_iter().chain(frameworks) {
        components.extend(packages.get(name).map(|version| (name.to_owned(), version.clone())));
    }
    Software { client: client.map(str::to_owned), components }
}

fn client(facts: &Facts, packages: &BTreeMap<String, String>) -> Option<&'static str> {
    let scripts = facts.args.iter().map(|arg| file_name(Path::new(arg)));
    let command = scripts.filter_map(|script| COMMANDS.iter().find(|(name, _)| *name == script)).next();
    if let Some((_, client)) = command {
        return Some(client);
    }
    if facts.variables.contains_key("DJANGO_SETTINGS_MODULE") {
        return Some("python:django");
    }
    let imported = served(facts);
    if !imported.is_empty() {
        return only(imported);
    }
    let installed = FRAMEWORKS.iter().filter(|(package, _)| packages.contains_key(*package));
    only(installed.map(|(_, client)| *client).collect::<BTreeSet<_>>())
}

/// The frameworks that the modules import which the command line names: `package.module:app`, or a script.
fn served(facts: &Facts) -> BTreeSet<&'static str> {
    let mut searched = vec![facts.cwd.clone()];
    for option in ["--chdir", "--app-dir", "--pythonpath"] {
        let values = facts.args.iter().zip(facts.args.iter().skip(1)).filter(|(arg, _)| *arg == option);
        searched.extend(values.map(|(_, value)| facts.path(value)));
        let joined = format!("{option}=");
        searched.extend(
            facts.args.iter().filter_map(|arg| arg.strip_prefix(&joined)).map(|value| facts.path(value)),
        );
    }
    let path = facts.variables.get("PYTHONPATH").into_iter().flat_map(|path| path.split(':'));
    searched.extend(path.map(|directory| facts.path(directory)));
    searched.truncate(MOST_DIRECTORIES);

    let mut found = BTreeSet::new();
    for arg in facts.args.iter().skip(1).take(MOST_ARGS).filter(|arg| !arg.starts_with('-')) {
        let texts = match arg.strip_suffix(".py") {
            Some(_) => facts.root.text(&facts.path(arg)),
            None => searched.iter().find_map(|directory| module(facts, directory, arg)),
        };
        found.extend(texts.iter().flat_map(|text| imports(text)));
    }
    found
}

const MOST_DIRECTORIES: usize = 8;
const MOST_ARGS: usize = 64;

/// The source of a module, if a word of the command line is one's name.
fn module(facts: &Facts, directory: &Path, word: &str) -> Option<String> {
    let name = word.split(':').next().unwrap_or_default();
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !name.split('.').all(is_name) {
        return None;
    }
    let path = directory.join(name.replace('.', "/"));
    facts.root.text(&path.with_extension("py")).or_else(|| facts.root.text(&path.join("__init__.py")))
}

/// Frameworks that a module imports whenever it is loaded: in lines that are not indented.
fn imports(source: &str) -> BTreeSet<&'static str> {
    let lines =
        source.lines().filter_map(|line| line.strip_prefix("import ").or_else(|| line.strip_prefix("from ")));
    let names = lines.map(|line| {
        let end = line.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(line.len());
        let name = &line[..end];
        MODULES.iter().find(|(module, _)| *module == name).map_or(name, |(_, package)| *package)
    });
    names
        .filter_map(|name| FRAMEWORKS.iter().find(|(package, _)| *package == name))
        .map(|(_, client)| *client)
        .collect()
}

/// Name -> version of what is installed where the interpreter looks.
fn packages(facts: &Facts) -> BTreeMap<String, String> {
    let mut packages = BTreeMap::new();
    for directory in directories(facts).into_iter().take(MOST_DIRECTORIES) {
        for name in facts.root.names(&directory) {
            let Some((name, found)) = package(&name) else { continue };
            packages.entry(name).or_insert(found);
        }
    }
    packages
}

/// `Django-5.2.19.dist-info` is version 5.2.19 of django.
fn package(directory: &str) -> Option<(String, String)> {
    let stem = directory.strip_suffix(".dist-info").or_else(|| directory.strip_suffix(".egg-info"))?;
    let mut parts = stem.split('-');
    let name = parts.next()?.to_ascii_lowercase().replace(['_', '.'], "-");
    Some((name, version(parts.next()?)?))
}

/// Where packages lie. In a virtual environment nowhere else: what the system has is not seen from there.
fn directories(facts: &Facts) -> BTreeSet<PathBuf> {
    let lib = format!("python{}", minor_version(facts).unwrap_or_default());
    let environments = environments(facts);
    if !environments.is_empty() {
        return environments
            .iter()
            .map(|prefix| prefix.join("lib").join(&lib).join("site-packages"))
            .collect();
    }
    let loaded = facts.mapped.iter().filter_map(|file| {
        file.ancestors().find(|path| matches!(file_name(path), "site-packages" | "dist-packages"))
    });
    let mut directories: BTreeSet<PathBuf> = loaded.map(Path::to_owned).collect();
    let prefix = facts.exe.ancestors().nth(2).unwrap_or(Path::new("/"));
    for (prefix, rest) in [
        (prefix, format!("lib/{lib}/site-packages")),
        (prefix, "lib/python3/dist-packages".to_owned()),
        (Path::new("/usr/local"), format!("lib/{lib}/dist-packages")),
    ] {
        directories.insert(prefix.join(rest));
    }
    directories
}

/// The virtual environments that the process may have been started in: by their interpreter or one of their scripts, or
/// after they were activated.
fn environments(facts: &Facts) -> BTreeSet<PathBuf> {
    let programs = facts.args.iter().take(2).map(|arg| facts.path(arg));
    let prefixes = programs.filter_map(|program| Some(program.parent()?.parent()?.to_owned()));
    let activated = facts.variables.get("VIRTUAL_ENV").map(PathBuf::from);
    prefixes.chain(activated).filter(|prefix| facts.root.text(&prefix.join("pyvenv.cfg")).is_some()).collect()
}

/// All of the version where it is written down, else what the program is called: `python3.11`.
fn interpreter(facts: &Facts) -> Option<String> {
    let configs =
        environments(facts).into_iter().filter_map(|prefix| facts.root.text(&prefix.join("pyvenv.cfg")));
    let written = configs.filter_map(|config| {
        let line = config.lines().find_map(|line| line.strip_prefix("version")?.trim().strip_prefix('='))?;
        version(line.trim())
    });
    let minor = minor_version(facts)?;
    written.chain(header(facts, minor)).find(|version| version.starts_with(minor)).or_else(|| version(minor))
}

/// The version in the interpreter's header, which official images bring along.
fn header(facts: &Facts, minor: &str) -> Option<String> {
    let prefix = facts.exe.ancestors().nth(2)?;
    let header = facts.root.text(&prefix.join(format!("include/python{minor}/patchlevel.h")))?;
    let line = header.lines().find_map(|line| line.strip_prefix("#define PY_VERSION"))?;
    version(line.trim().trim_matches('"'))
}

/// `3.11` of `/usr/bin/python3.11`.
fn minor_version(facts: &Facts) -> Option<&str> {
    facts.program().strip_prefix("python").filter(|minor| !minor.is_empty())
}
